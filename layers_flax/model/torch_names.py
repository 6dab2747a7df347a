"""Variables to and from a PyTorch state dict: names, and the order of axes.

Layouts: convolution kernels HWIO here, OIHW there; dense kernels (in, out) here, (out, in) there.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from layers_flax.model.shapes import variables_by_shape

Path = tuple[str, ...]  # of modules, without the collection and the leaf

QUICKLY_TRACED = 64  # blocks
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def from_torch(model: Any, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of `model` with the values of a PyTorch state dict.

    Args:
        model: any network of either family; it tells names and shapes, and nothing is computed.
        state_dict: torchvision's names, with or without a `module.` prefix, to NumPy arrays, tensors, or objects with a
            shape that `np.asarray` can read. Of DenseNets the spelling of old files, `denselayer1.norm.1`, is read as
            `denselayer1.norm1`. `num_batches_tracked` is skipped: no network depends on it.

    Returns:
        {"params", "batch_stats"}, leaves NumPy arrays of the state dict's own types.

    Raises:
        ValueError: entries are missing, unused or misshapen; all are named.
    """
    state = {model.torch_spelling(name.removeprefix("module.")): value for name, value in state_dict.items()}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    if sum(model.stage_sizes) > QUICKLY_TRACED:
        # Names tell at once that a file is another network's, where tracing takes seconds.
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        if model.torch_options(shapes) is None:
            raise ValueError(f"state dict does not fit the model, whose stages have {model.stage_sizes} blocks")
    first = state.get(torch_name(("params", model.first_conv, "kernel"), model.torch_module))
    channels = first.shape[1] if first is not None and len(first.shape) == 4 else 3
    template = variables_by_shape(model, (32, 32, channels))
    wanted = {torch_name(path, model.torch_module): (path, leaf) for path, leaf in flatten_dict(template).items()}
    problems = []
    if missing := [name for name in wanted if name not in state]:
        problems.append(f"missing: {_some(missing)}")
    if unused := [name for name in state if name not in wanted]:
        problems.append(f"unused: {_some(unused)}")
    fitting, misshapen = {}, []
    for name in wanted.keys() & state.keys():
        path, leaf = wanted[name]
        here, shape = tuple(state[name].shape), torch_shape(leaf.shape)
        if here != shape:
            misshapen.append(f"{name} {here}, not {shape}")
        else:
            fitting[path] = state[name]
    if misshapen:
        problems.append(f"misshapen: {_some(sorted(misshapen))}")
    if problems:
        raise ValueError("state dict does not fit the model; " + "; ".join(problems))
    # Lazy values are read from their file only here, when all names and shapes are right.
    values = {path: _from_torch_layout(to_numpy(value)) for path, value in fitting.items()}
    # A network without BatchNorm keeps its empty batch_stats.
    return {collection: {} for collection in template} | unflatten_dict(values)


def to_torch(model: Any, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The exact inverse of `from_torch`: PyTorch's names, in today's spelling, to NumPy arrays.

    Args:
        model: any network of either family.
        variables: the result of `from_torch` or `init`, a part of it (`{"batch_stats": …}` as `apply` updates it), or
            a tree of the same shape, such as gradients with respect to the parameters.

    Raises:
        ValueError: an entry has no name under PyTorch.
    """
    if not {"params", "batch_stats"} & set(variables):
        variables = {"params": variables}
    flat = flatten_dict(jax.tree.map(np.asarray, dict(variables)))
    for path in flat:
        if path[0] not in ("params", "batch_stats") or path[-1] not in LEAVES:
            raise ValueError(f"no PyTorch name for {'/'.join(path)!r}")
    there = {path: value.transpose(torch_axes(value.ndim)) for path, value in flat.items()}
    return {torch_name(path, model.torch_module): np.ascontiguousarray(value) for path, value in there.items()}


def to_numpy(value: Any) -> np.ndarray:
    """An array or a tensor (on any device, of any float type) as a NumPy array, without importing torch."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has this type only through JAX; float32 holds it exactly
            return value.float().numpy().astype(jnp.bfloat16)
        value = value.numpy()
    return np.asarray(value)


def block_counts(names: Iterable[str], pattern: str, first: int) -> tuple[int, ...]:
    """Counts the blocks of each stage, by the highest numbers in PyTorch's names.

    Args:
        names: of tensors.
        pattern: matches the beginning of a block's tensor; its groups are the stage, counted from 1, and the block.
        first: number of a stage's first block.
    """
    highest: dict[int, int] = {}
    for name in names:
        if match := re.match(pattern, name):
            stage, block = int(match[1]), int(match[2])
            highest[stage] = max(highest.get(stage, 0), block + 1 - first)
    return tuple(highest.get(stage, 0) for stage in range(1, len(highest) + 1))


def torch_name(path: Path, module_name: Callable[[Path], str]) -> str:
    """PyTorch's name of the leaf at `path`, such as ("params", "layer1_0", "conv1", "kernel")."""
    return f"{module_name(path[1:-1])}.{LEAVES[path[-1]]}"


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape under PyTorch of a leaf of `shape`."""
    return tuple(shape[axis] for axis in torch_axes(len(shape)))


def _from_torch_layout(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value.transpose(np.argsort(torch_axes(value.ndim))))


def torch_axes(rank: int) -> tuple[int, ...]:
    """For each axis of a PyTorch tensor of this rank, the number of the same axis here."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(rank, tuple(range(rank)))


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")
