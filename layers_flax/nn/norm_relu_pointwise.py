"""BatchNorm, ReLU and a 1×1 convolution as one, whose backward pass does not write the gradient of the normalised map.

y = relu(x f + s) W, with f and s of BatchNorm, as in a layer of a DenseNet, has fewer channels than x. The backward
pass needs the gradients of W, f and s, each a sum over all pixels. With g the cotangent of y and A = (x f + s > 0)

    M = Aᵀ g,  Q = (A x)ᵀ g,  dW = f Q + s M,  df = Σ_k W_k Q_k,  ds = Σ_k W_k M_k,  dx = A f (g Wᵀ).

So the sums for BatchNorm come from products with the small g. XLA would write A (g Wᵀ), which is as large as x, for
the sums alone, and read it again.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from layers_flax.autodiff.linear_map import linear_map
from layers_flax.conv.pointwise import wide_sum_of_products
from layers_flax.nn.batch_norm import Moments
from layers_flax.nn.pointwise_norm import are_pointwise


def norm_relu_conv(norm: Any, conv: Any, x: jax.Array, train: bool, moments: Moments | None = None) -> jax.Array:
    """Computes `conv(relu(norm(x, train, moments)))`.

    On TPUs, in training, a `BatchNorm` and a 1×1 convolution to no more channels are one, as above. Derivatives are the
    same, of any order and in forward mode too.

    Args:
        norm, conv: bound layers; all others run one by one.
        x: (batch, height, width, channels).
        train, moments: of `norm`.
    """
    if not (train and are_pointwise(conv, norm, x) and conv.features <= x.shape[-1]):
        return conv(nn.relu(norm(x, train, moments)))
    moments = norm.moments(x) if moments is None else moments
    norm.update_running_stats(moments, x.size // x.shape[-1])
    kernel = conv.get_variable("params", "kernel")[0, 0].astype(x.dtype)
    scale, bias = (norm.get_variable("params", name) for name in ("scale", "bias"))
    factor = lax.rsqrt(moments.variance + norm.epsilon) * scale
    return _norm_relu_conv(x, factor, bias - moments.mean * factor, kernel)


@jax.custom_jvp
def _norm_relu_conv(x: jax.Array, factor: jax.Array, shift: jax.Array, kernel: jax.Array) -> jax.Array:
    return nn.relu((x * factor + shift).astype(x.dtype)) @ kernel


@_norm_relu_conv.defjvp
def _jvp(primals: Any, tangents: Any) -> Any:
    return _norm_relu_conv(*primals), linear_map(_forward, _backward, primals, tangents)


def _forward(residuals: Any, tangents: Any) -> jax.Array:
    (x, factor, shift, kernel), (dx, dfactor, dshift, dkernel) = residuals, tangents
    normal = x * factor + shift
    active = normal > 0
    inner = jnp.where(active, dx * factor + x * dfactor + dshift, 0)
    seen = jnp.where(active, normal, 0).astype(x.dtype)
    return inner.astype(x.dtype) @ kernel + seen @ dkernel


def _backward(residuals: Any, g: jax.Array) -> Any:
    x, factor, shift, kernel = residuals
    active = x * factor + shift > 0
    weights = kernel.astype(factor.dtype)
    ones, along = (wide_sum_of_products(a, g) for a in (active.astype(x.dtype), jnp.where(active, x, 0)))
    dkernel = factor[:, None] * along + shift[:, None] * ones
    dx = jnp.where(active, g @ kernel.T * factor, 0).astype(x.dtype)
    return dx, (weights * along).sum(1), (weights * ones).sum(1), dkernel.astype(kernel.dtype)
