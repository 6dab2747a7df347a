"""Shapes of networks: nothing is computed, and no memory is needed."""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def image_by_shape(image_shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    """A batch of one image of `image_shape`, (height, width, channels), as shape and type without values."""
    return jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)


def variables_by_shape(model: nn.Module, image_shape: Sequence[int] = (32, 32, 3)) -> Mapping[str, Any]:
    """Shapes and types of a network's variables, by tracing its `init` once for each network and shape of images."""
    config: Any = jax.config  # its attributes know of contexts, its values do not
    try:
        return _traced(model, tuple(image_shape), config.jax_enable_x64)
    except TypeError:  # a field cannot be hashed, for example a list of stage sizes
        return _traced.__wrapped__(model, tuple(image_shape), True)


@lru_cache(maxsize=256)  # every published network, in a few sizes of images
def _traced(model: nn.Module, image_shape: tuple[int, ...], x64: bool) -> Mapping[str, Any]:
    del x64  # an entry of the cache for each setting: types depend on it
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image_by_shape(image_shape))
