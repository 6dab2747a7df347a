"""Folding of BatchNorms into the convolutions before them, for inference."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from layers_flax import BatchNorm, Conv, Network, variables_by_shape
from weights_flax.look.trace import trace_network

Path = tuple[str, ...]


def fold_batch_norm(model: nn.Module, variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the same network for faster inference, with BatchNorms merged into the weights of convolutions.

    A BatchNorm in evaluation is a scale s = scale / sqrt(var + epsilon) and a shift b = bias - mean · s of each
    channel. Behind a convolution both become part of the convolution, `kernel` · s and `bias` · s + b; elsewhere, as
    behind a sum or a concatenation, they stay a layer, `scale` s and `bias` b. Both are computed in float64.

    Args:
        model: a ResNet, plain network, VGG or DenseNet.
        variables: its {"params", "batch_stats"}.

    Returns:
        `(folded_model, folded_variables)`: `model.clone(folded=True)`, called like any other network with
        `train=False`, and {"params", "batch_stats"} with empty batch_stats. Parameters keep their types, and logits
        are the same within rounding.

    Raises:
        ValueError: the model is of another kind or folded already, the variables are not the model's, or a running
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
    # The folded network has no parameters of the BatchNorms that are merged into convolutions.
    shapes = variables_by_shape(folded_model, image_shape)
    left = flatten_dict(shapes["params"])
    if shapes["batch_stats"] or not left.keys() <= params.keys() | {(*path[:-1], "bias") for path in params}:
        raise ValueError(
            f"the {type(model).__name__} cannot be folded: a block must make norms by self.norm, under their own names"
        )
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
    """Returns the epsilon of each BatchNorm and the convolution before it; () if another layer is before it."""
    trace = trace_network(model, variables_by_shape(model, image_shape), image_shape)
    convs: dict[Any, Path] = {}
    norms: dict[Path, tuple[float, Path]] = {}
    for equation in trace.closed.eqns:
        layer = trace.layer_of(equation)
        if layer is not None and isinstance(layer.module, Conv):
            convs[equation.outvars[0]] = layer.path
        if layer is not None and isinstance(layer.module, BatchNorm):
            norms[layer.path] = layer.module.epsilon, convs.get(equation.invars[0], ())
    return norms


def _scale_and_shift(norm: Path, epsilon: float, params: Any, stats: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the factor and the summand of a BatchNorm in evaluation, in float64."""
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
    """Raises ValueError, which names the first variable that differs, unless names and shapes are the model's."""
    ours, given = (flatten_dict(dict(tree), sep="/") for tree in (shapes, variables))
    for name in sorted(ours.keys() ^ given.keys()):
        raise ValueError(f"the variables are not the model's: {name} is {'missing' if name in ours else 'not in it'}")
    for name, leaf in ours.items():
        if given[name].shape != leaf.shape:
            raise ValueError(
                f"the variables are not the model's: {name} must have shape {leaf.shape}; given {given[name].shape}"
            )
