"""The input of networks, made of pixels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any = jnp.float32) -> jax.Array:
    """Returns (pixel / 255 - mean) / std for images (…, channels) with values from 0 to 255: the input of networks."""
    return (images.astype(dtype) / 255 - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)
