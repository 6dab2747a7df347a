"""BatchNorm, ReLU and max pooling behind the first convolution of a network, as one."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from layers_flax.autodiff.backend import backend
from layers_flax.nn.batch_norm import BatchNorm, Moments
from layers_flax.nn.pooling import max_pool


def norm_relu_max_pool(
    norm: Any, x: jax.Array, train: bool, window: int, stride: int, padding: int | str = 0
) -> jax.Array:
    """Computes `max_pool(relu(norm(x, train)), window, stride, padding)`.

    On accelerators the pool comes first in training. Behind it there are fewer pixels to normalise, and the backward
    pass needs one pass over the large map less. A BatchNorm keeps the order of a channel's values, or turns it round
    where the scale is negative, and rounding and ReLU keep it too, so the largest value is the same one.

    Args:
        norm: a bound `BatchNorm`; any other layer runs before the pool.
        x: (batch, height, width, channels).
        train, window, stride, padding: of `norm` and `max_pool`.
    """
    if not train or backend() == "cpu" or not isinstance(norm, BatchNorm) or norm.is_initializing():
        return max_pool(nn.relu(norm(x, train)), window, stride, padding)
    scale: Any = norm.get_variable("params", "scale")
    running_mean: Any = norm.running_mean
    sign = jnp.where(lax.stop_gradient(scale) < 0, -1, 1)
    x, moments = x * sign.astype(x.dtype), None
    if not norm.frozen:
        mean, variance = norm.moments(x, running_mean * sign)
        moments = Moments(mean * sign, variance)
    pooled = max_pool(x, window, stride, padding) * sign.astype(x.dtype)
    return nn.relu(norm(pooled, train, moments, values=x.size // x.shape[-1]))
