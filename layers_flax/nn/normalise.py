"""The input of networks, made of pixels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def normalise(
    images: jax.Array | np.ndarray, mean: Sequence[float], std: Sequence[float], dtype: Any = jnp.float32
) -> jax.Array:
    """Returns (pixel / 255 - mean) / std for images (…, channels) with values from 0 to 255: the input of networks."""
    return (jnp.asarray(images, dtype) / 255 - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)
