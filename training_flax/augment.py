"""Random changes of images that leave their labels true: pure functions of a key, on the device."""

import jax
import jax.numpy as jnp

AUGMENTATIONS = ("crop", "none")


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Pads each image with black on all sides and cuts its old size out again, at a place of its own.

    Args:
        key: PRNG key.
        images: (batch, height, width, channels), any type.
        padding: pixels on each side; images move by at most this (He 2015, section 4.2, has 4 for 32 pixels).

    Returns:
        The shape and type of `images`.
    """
    size = images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), size)

    return jax.vmap(cut)(padded, corners)
