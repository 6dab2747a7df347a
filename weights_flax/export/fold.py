"""Networks for inference: each BatchNorm folded into the convolution before it, where there is one."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from layers_flax import BatchNorm, Conv, Network, image_by_shape, variables_by_shape

Path = tuple[str, ...]


def fold_batch_norm(model: nn.Module, variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The same network for inference, and faster: what BatchNorms do is in the weights of convolutions.

    A BatchNorm in evaluation is a scale s = scale / sqrt(var + epsilon) and a shift b = bias - mean · s of each
    channel. Behind a convolution it becomes part of it, `kernel` · s and `bias` · s + b; anywhere else, as behind a
    sum or a concatenation, it stays as a layer of its own, `scale` s and `bias` b. Both are computed in float64.

    Args:
        model: a ResNet, plain network, VGG or DenseNet.
        variables: its {"params", "batch_stats"}.

    Returns:
        `(folded_model, folded_variables)`, called as any other with `train=False`: `model.clone(folded=True)`, and
        {"params", "batch_stats"} with nothing in the latter. Parameters have the types of those they are made of,
        and logits are the same within rounding.

    Raises:
        ValueError: the model is of another kind or folded already, the variables are not its own, or a running
            variance is negative or not finite.
    """
    if not isinstance(model, Network):
        raise ValueError(f"a ResNet, PlainNet, VGG or DenseNet can be folded; given a {type(model).__name__}")
    if model.folded:
        raise ValueError(f"the {type(model).__name__} is folded already")
    image_shape = (224, 224, model.first_kernel(variables).shape[2])
    _check(variables, variables_by_shape(model, image_shape))
    params, stats = (flatten_dict(variables[name]) for name in ("params", "batch_stats"))
    folded_model = model.clone(folded=True)
    # What the folded network has no place for is gone with the BatchNorms that convolutions have taken in.
    left = flatten_dict(variables_by_shape(folded_model, image_shape)["params"])
    folded = {path: leaf for path, leaf in params.items() if path in left}
    for norm, (epsilon, conv) in _batch_norms(model, image_shape).items():
        scale, shift = _scale_and_shift(norm, epsilon, params, stats)
        if (*norm, "scale") in left:
            new = {(*norm, "scale"): scale, (*norm, "bias"): shift}
        else:
            kernel, bias = (np.asarray(params.get((*conv, name), 0), np.float64) for name in ("kernel", "bias"))
            new = {(*conv, "kernel"): kernel * scale, (*conv, "bias"): bias * scale + shift}
        kind = params[(*conv, "kernel") if (*conv, "bias") in new else (*norm, "scale")].dtype
        folded |= {path: jnp.asarray(value.astype(kind)) for path, value in new.items()}
    return folded_model, {"params": unflatten_dict(folded), "batch_stats": {}}


def _batch_norms(model: nn.Module, image_shape: Sequence[int]) -> dict[Path, tuple[float, Path]]:
    """Of each BatchNorm: its epsilon, and the convolution whose output it takes, () where it takes another's.

    Found by running the network on shapes alone.
    """
    made: list[tuple[jax.Array, Path]] = []
    found: dict[Path, tuple[float, Path]] = {}

    def note(run: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if isinstance(layer, BatchNorm) and context.method_name == "__call__":
            found[layer.path] = layer.epsilon, next((path for out, path in made if out is args[0]), ())
        out = run(*args, **kwargs)
        if isinstance(layer, Conv):
            made.append((out, layer.path))
        return out

    with nn.intercept_methods(note):
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image_by_shape(image_shape))
    return found


def _scale_and_shift(norm: Path, epsilon: float, params: Any, stats: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a BatchNorm multiplies with and adds in evaluation, in float64."""
    scale, bias = (np.asarray(params[(*norm, name)], np.float64) for name in ("scale", "bias"))
    mean, variance = (np.asarray(stats[(*norm, name)], np.float64) for name in ("mean", "var"))
    wrong = ~((variance >= 0) & (variance < np.inf))
    if wrong.any():
        raise ValueError(
            f"the running variance of {'/'.join(norm)} must be finite and not negative; given {variance[wrong][0]}"
        )
    scale = scale / np.sqrt(variance + epsilon)
    return scale, bias - mean * scale


def _check(variables: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
    """Raises ValueError, naming one that differs, unless the variables have the model's names and shapes."""
    ours, given = (flatten_dict(dict(tree), sep="/") for tree in (shapes, variables))
    for name in sorted(ours.keys() ^ given.keys()):
        raise ValueError(f"the variables are not the model's: {name} is {'missing' if name in ours else 'not in it'}")
    for name, leaf in ours.items():
        if given[name].shape != leaf.shape:
            raise ValueError(
                f"the variables are not the model's: {name} must have shape {leaf.shape}; given {given[name].shape}"
            )
