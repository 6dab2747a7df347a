"""Random changes of images that leave their labels true: pure functions of a key, on the device."""

import jax
import jax.numpy as jnp

AUGMENTATIONS = ("affine", "none")


def random_affine(
    key: jax.Array,
    images: jax.Array,
    *,
    rotation: float = 0.2,
    shear: float = 0.2,
    scale: float = 0.1,
    shift: float = 0.1,
) -> jax.Array:
    """Turns, slants, scales and moves each image by amounts of its own, drawn evenly up to the given ones.

    Handwriting differs from hand to hand in just these (Simard et al., Best Practices for Convolutional Neural
    Networks, ICDAR 2003, section 2). What comes in from outside the image is black.

    Args:
        key: PRNG key.
        images: (batch, height, width, channels), any type.
        rotation: radians.
        shear: columns a row.
        scale: share by which either axis grows or shrinks.
        shift: share of the image's size.

    Returns:
        Float32 of the shape of `images`, sampled bilinearly.
    """
    batch, height, width, _ = images.shape
    turn_key, shear_key, scale_key, shift_key = jax.random.split(key, 4)
    turn = rotation * _evenly(turn_key, (batch,))
    slant = shear * _evenly(shear_key, (batch,))
    factor = 1 + scale * _evenly(scale_key, (batch, 2))
    move = shift * _evenly(shift_key, (batch, 2)) * jnp.array([height, width])
    centre = jnp.array([height - 1, width - 1]) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1) - centre
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    # Row and column of the pixel that each pixel of the result shows, from the centre.
    matrix = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin + slant, cos], -1)], -2) * factor[:, :, None]
    places = jnp.einsum("bij,hwj->bihw", matrix, grid) + (centre + move)[:, :, None, None]

    def sample(channel: jax.Array, place: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(channel, list(place), order=1)

    over_channels = jax.vmap(sample, (-1, None), -1)
    return jax.vmap(over_channels)(images.astype(jnp.float32), places)


def _evenly(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0)
