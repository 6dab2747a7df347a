"""A 1×1 convolution to many channels and its BatchNorm as one, whose backward pass does not read the large product.

y = x W has more channels than x. The backward pass of BatchNorm and convolution needs Σ g y and y itself, for the
cotangent g of the normalised map; both can be had from x:

    P = xᵀ g,  Σ g y = Σ_k W_k P_k,  and with y's cotangent f g + a - y q (f, a, q of the channels alone)
    dW = P f + (Σ x) aᵀ - (xᵀ x) W q,  dx = g (W f)ᵀ + a Wᵀ - x (W q Wᵀ).

So the large y is neither kept nor read again, and g is read twice in place of three times. On TPUs memory
binds and not arithmetic, so that less is moved for more products; elsewhere the two are computed one by one.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from layers_flax.autodiff.backend import backend
from layers_flax.autodiff.linear_map import is_spread, linear_map
from layers_flax.conv.conv import Conv
from layers_flax.conv.pointwise import wide_sum_of_products
from layers_flax.nn.batch_norm import BatchNorm, Moments, batch_moments, normalised

# Channels out for each channel in, from which on it pays: products with x are read and written in place of y.
WIDER = 4


def conv_and_norm(conv: Any, norm: Any, x: jax.Array, train: bool) -> jax.Array:
    """Computes `norm(conv(x), train)`.

    On TPUs a 1×1 convolution of stride 1 to at least four times the channels and its `BatchNorm` are one in training,
    as above. Derivatives are the same, of any order and in forward mode too.

    Args:
        conv, norm: bound layers; all but a `Conv` and a `BatchNorm` of a network in training run one by one.
        x: (batch, height, width, channels).
        train: of `norm`.
    """
    if not (train and are_pointwise(conv, norm, x) and conv.features >= WIDER * x.shape[-1]):
        return norm(conv(x), train)
    kernel = conv.get_variable("params", "kernel")[0, 0].astype(x.dtype)
    scale, bias = (norm.get_variable("params", name) for name in ("scale", "bias"))
    y, moments = _conv_and_norm(x, kernel, scale, bias, norm.running_mean, norm.epsilon, norm.axis_name)
    norm.update_running_stats(moments, y.size // y.shape[-1])
    return y


def are_pointwise(conv: Any, norm: Any, x: jax.Array) -> bool:
    """Tells if two bound layers beside each other, `x` the first one's input, can be one on this backend.

    They are a 1×1 convolution of stride 1 and a BatchNorm that normalises with the batch's statistics, on a TPU. For
    GPUs XLA leaves products to cuBLAS, which computes no sums beside them.
    """
    if backend() != "tpu" or type(conv) is not Conv or type(norm) is not BatchNorm:
        return False
    if norm.frozen or norm.is_initializing() or is_spread(x):
        return False
    pointwise = (conv.kernel_size, conv.stride, conv.groups, conv.use_bias, conv.convolve) == (1, 1, 1, False, None)
    types = {jnp.dtype(layer.dtype or jnp.promote_types(x.dtype, layer.param_dtype)) for layer in (conv, norm)}
    # Who watches what layers give wants to see what is between the two as well.
    watched = conv.is_mutable_collection("intermediates")
    return pointwise and conv.padding in (None, 0, "same") and types == {x.dtype} and not watched


@partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _conv_and_norm(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    about: jax.Array,
    epsilon: float,
    axis_name: str | None,
) -> tuple[jax.Array, Moments]:
    y = x @ kernel
    moments = batch_moments(y, axis_name, about)
    return normalised(y, scale, bias, moments, epsilon, x.dtype), moments


@_conv_and_norm.defjvp
def _jvp(epsilon: float, axis_name: str | None, primals: Any, tangents: Any) -> Any:
    x, kernel, scale, _, _ = primals
    y, moments = _conv_and_norm(*primals, epsilon, axis_name)
    residuals = (x, kernel, scale, moments.mean, lax.rsqrt(moments.variance + epsilon))
    forward, backward = partial(_forward, axis_name), partial(_backward, axis_name)
    return (y, moments), linear_map(forward, backward, residuals, tangents[:4])


def _forward(axis_name: str | None, residuals: Any, tangents: Any) -> tuple[jax.Array, Moments]:
    """The tangents of the normalised map and of the batch's statistics."""
    (x, kernel, scale, mean, inverse), (dx, dkernel, dscale, dbias) = residuals, tangents
    wide = mean.dtype
    centred = x @ kernel - mean
    dy = (dx @ kernel).astype(wide) + x @ dkernel
    axes = tuple(range(x.ndim - 1))
    dmean, along = _all_mean(jnp.stack([dy.mean(axes), (centred * dy).mean(axes)]), axis_name)
    normal = centred * inverse
    dnormal = (dy - dmean - normal * along * inverse) * inverse
    dz = dnormal * scale.astype(wide) + normal * dscale.astype(wide) + dbias.astype(wide)
    return dz.astype(x.dtype), Moments(dmean, 2 * along)


def _backward(axis_name: str | None, residuals: Any, cotangents: tuple[jax.Array, Moments]) -> Any:
    """The cotangents of x, kernel, scale and bias, by the formulas above."""
    (x, kernel, scale, mean, inverse), (g, of_moments) = residuals, cotangents
    wide, values = mean.dtype, x.size // x.shape[-1]
    axes = tuple(range(x.ndim - 1))
    weights = kernel.astype(wide)
    by_x, gram = wide_sum_of_products(x, g), wide_sum_of_products(x, x)  # P and xᵀx
    dbias, sums = g.astype(wide).sum(axes), x.astype(wide).sum(axes)
    dscale = ((weights * by_x).sum(0) - mean * dbias) * inverse
    along_one, along_normal, of_mean, of_variance = _all_mean(jnp.stack([dbias, dscale, *of_moments]), axis_name)
    factor = scale.astype(wide) * inverse
    slope = (factor * along_normal * inverse - 2 * of_variance) / values
    constant = slope * mean + (of_mean - factor * along_one) / values
    dkernel = by_x * factor + jnp.outer(sums, constant) - (gram @ weights) * slope
    dx = (g @ (weights * factor).T.astype(x.dtype)).astype(wide) - x @ ((weights * slope) @ weights.T).astype(x.dtype)
    dx = dx + weights @ constant
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


def _all_mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else lax.pmean(x, axis_name)
