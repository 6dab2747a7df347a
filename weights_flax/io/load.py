"""Weights in: whatever file they are in and whoever named them, for a network of ours."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from layers_flax import from_torch, image_by_shape, variables_to_torch
from weights_flax.formats.open import WeightsFile, open_weights, reading
from weights_flax.formats.tensors import Tensor, from_memory
from weights_flax.io.archs import build_model, describe
from weights_flax.io.inspect import classes_of, fitting
from weights_flax.names.recognise import Naming, recognise


class LoadedModel(NamedTuple):
    """A network and what it was saved with.

    Attributes:
        model: the network.
        variables: {"params", "batch_stats"}, leaves NumPy arrays.
        card: what the file says of it, see `save_weights`; empty where it says nothing.
    """

    model: nn.Module
    variables: dict[str, Any]
    card: dict[str, Any]


def load_weights(
    model: nn.Module, source: str | Path | Mapping[str, Any], *, new_head: bool = False, seed: int = 0
) -> dict[str, Any]:
    """The variables of `model` out of a file.

    Nothing in the file is run, and no value is read before all names and shapes are found to be the model's.

    Args:
        model: any network of either family.
        source: a file or a folder, see `open_weights`: safetensors, PyTorch (zipped and legacy), .npz, HDF5 of Keras,
            msgpack of Flax, a run's folder, a folder of Orbax, "hf://OWNER/NAME[/FILE]"; or a mapping, PyTorch's names
            to arrays or the nested variables of Flax. Names may be torchvision's, timm's, those of akamaster's CIFAR
            ResNets, of Keras applications, of Flax's ImageNet example, or our own.
        new_head: draw the classifier anew, as `model.init` would, whatever classes the file has, or if it has none.
        seed: of the new classifier.

    Returns:
        {"params", "batch_stats"}, leaves NumPy arrays of the model's `param_dtype`; statistics are float32 or wider.

    Raises:
        ValueError: one line: the file cannot be read, its names are of no known source, entries are missing, surplus
            or misshapen, the classes are another number, values are not finite, or the weights are of a network that
            was built with other options.
    """
    if isinstance(source, Mapping):
        return _fit(model, "mapping", *recognise(from_memory(source)), new_head=new_head, seed=seed)
    file = open_weights(source)
    with reading(file.path):
        naming, tensors = recognise(file.tensors)
    return _fit(model, str(file.path), naming, tensors, new_head=new_head, seed=seed)


def read_card(source: str | Path) -> dict[str, Any]:
    """What a file of weights says of its network, see `save_weights`; empty where it says nothing.

    Raises:
        ValueError: the file cannot be read.
    """
    return open_weights(source).card


def load_model(source: str | Path, arch: str | None = None, **options: Any) -> LoadedModel:
    """The network that a file of weights belongs to, built, and its variables.

    Args:
        source: as in `load_weights`.
        arch: the architecture; None is what the file says of itself or, where it says nothing, what its names and
            shapes fit. (A plain network fits where a ResNet with shortcut A does; the ResNet is taken.)
        options: of the constructor, over those that the file names.

    Raises:
        ValueError: as `load_weights`; or the file fits no architecture.
    """
    file = open_weights(source)
    with reading(file.path):
        naming, tensors = recognise(file.tensors)
        found = fitting(naming, tensors) if arch or not file.card.get("arch") else []
    named = {"num_classes": file.card["num_classes"]} if "num_classes" in file.card else {}
    if arch is None and file.card.get("arch"):
        arch, known = str(file.card["arch"]), {**_options(file), **named}
    elif arch is None and found:
        arch, known = found[0]
    elif arch is None:
        raise ValueError(f"weights {str(file.path)!r} fit no architecture by themselves; name it")
    else:
        named = named or {"num_classes": classes_of(tensors)}
        known = next((options for name, options in found if name == arch), {**naming.options, **named})
    model = build_model(arch, **{**known, **options})
    return LoadedModel(model, _fit(model, str(file.path), naming, tensors, new_head=False, seed=0), file.card)


def _options(file: WeightsFile) -> dict[str, Any]:
    options = file.card.get("options")
    return options if isinstance(options, dict) else {}


def _fit(
    model: nn.Module, where: str, naming: Naming, tensors: dict[str, Tensor], *, new_head: bool, seed: int
) -> dict[str, Any]:
    arch = describe(model)[0] or type(model).__name__
    for option, needed in naming.options.items():
        if getattr(model, option, needed) != needed:
            raise ValueError(
                f"weights {where!r} are those of {naming.title}, and need a model built with {option}={needed!r}; "
                f"that of the model is {getattr(model, option)!r}"
            )
    tensors = _with_head(model, where, tensors, new_head=new_head, seed=seed)
    try:
        return from_torch(model, {name: _checked(model, name, tensor) for name, tensor in tensors.items()})
    except OSError as error:
        raise ValueError(f"weights {where!r} cannot be read: {error}") from None
    except ValueError as error:
        raise ValueError(f"weights {where!r} are not those of {arch}: {error}") from None


def _with_head(
    model: nn.Module, where: str, tensors: dict[str, Tensor], *, new_head: bool, seed: int
) -> dict[str, Tensor]:
    """The tensors, with the new classifier that is asked for; one that stays must have the model's classes."""
    head = model.torch_head
    if new_head:
        return {**tensors, **_new_head(model, head, seed)}
    weight = tensors.get(f"{head}.weight")
    needed: int = getattr(model, "num_classes")  # noqa: B009
    given = None if weight is None else weight.shape[0] if weight.shape else 0
    if given not in (needed, None):
        raise ValueError(
            f"weights {where!r} have {given} classes, the model has {needed}; new_head=True draws the classifier anew"
        )
    return tensors


def _checked(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """The tensor in the model's type, whose values must be finite when they are read."""
    param_dtype: Any = getattr(model, "param_dtype")  # noqa: B009
    statistic = re.search(r"\.running_(mean|var)$", name)
    dtype = np.dtype(jnp.promote_types(param_dtype, jnp.float32) if statistic else param_dtype)
    if name.endswith("num_batches_tracked"):
        return tensor
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"{name} is {tensor.dtype}, not a type of floating point")

    def read() -> np.ndarray:
        with np.errstate(over="ignore"):
            values = np.asarray(tensor).astype(dtype)
        bad = values.size - int(np.isfinite(values).sum())
        if bad:
            raise ValueError(f"{name} has {bad:,} of {values.size:,} values that are not finite in {dtype}")
        return values

    return Tensor(tensor.shape, dtype, read)


def _new_head(model: nn.Module, head: str, seed: int) -> dict[str, Tensor]:
    """The classifier that `model.init` draws, under PyTorch's names."""
    module = head.replace(".", "_")
    params = model.init(jax.random.key(seed), image_by_shape((32, 32, 3)), train=False)["params"]
    return from_memory(variables_to_torch(jax.device_get({"params": {module: params[module]}}), lambda path: head))
