"""Affine changes of an image (rotation, shear, scale, shift): pure functions on the device.

Images are (height, width, channels) float32 of values from 0 to 255, and so are the results.
"""

import jax
import jax.numpy as jnp


def warp(image: jax.Array, matrix: jax.Array, *, origin: jax.Array, move: jax.Array, fill: float = 0.0) -> jax.Array:
    """Resamples `image`: pixel p of the result shows `image` at matrix · (p - origin) + origin + move.

    Between pixels the interpolation is bilinear. As in Pillow's `Image.transform`, places within half a pixel of the
    border show the border.

    Args:
        image: the image to resample.
        matrix: (2, 2), of rows and columns.
        origin: (2,) row and column of the fixed point of `matrix`. The upper left pixel's centre is (0, 0).
        move: (2,) rows and columns.
        fill: value of pixels from outside the image.
    """
    size = jnp.array(image.shape[:2])[:, None, None]
    pixels = jnp.stack(jnp.meshgrid(*map(jnp.arange, image.shape[:2]), indexing="ij"))
    places = jnp.einsum("ij,jhw->ihw", matrix, pixels - origin[:, None, None], precision="highest")
    places += (origin + move)[:, None, None]

    def sample(channel: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(channel, list(places), order=1, mode="nearest")

    inside = ((places >= -0.5) & (places < size - 0.5)).all(0)
    # The interpolation weights add up to 1 only within rounding, so values can leave the range.
    sampled = jnp.clip(jax.vmap(sample, -1, -1)(image), 0, 255)
    return jnp.where(inside[..., None], sampled, fill)


def centre(image: jax.Array) -> jax.Array:
    """Returns row and column, (2,) float32, of the middle of an image (height, width, channels)."""
    return (jnp.array(image.shape[:2]) - 1) / 2


def random_affine(
    key: jax.Array,
    image: jax.Array,
    *,
    rotation: float = 0.2,
    shear: float = 0.2,
    scale: float = 0.1,
    shift: float = 0.1,
    factor: float = 1.0,
) -> jax.Array:
    """Rotates, shears, scales and shifts the image by amounts uniform from minus to plus each argument.

    Handwriting varies from person to person in these ways (Simard et al., Best Practices for Convolutional Neural
    Networks, ICDAR 2003, section 2). Pixels from outside the image are black.

    Args:
        key, image: PRNG key and image.
        rotation: radians.
        shear: columns per row.
        scale: share by which either axis grows or shrinks.
        shift: share of the image's size.
        factor: factor on all four amounts.
    """
    turn_key, shear_key, scale_key, shift_key = jax.random.split(key, 4)
    turn = factor * rotation * _evenly(turn_key)
    slant = factor * shear * _evenly(shear_key)
    growth = 1 + factor * scale * _evenly(scale_key, (2,))
    move = factor * shift * _evenly(shift_key, (2,)) * jnp.array(image.shape[:2])
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    matrix = jnp.array([[cos, -sin], [sin + slant, cos]]) * growth[:, None]
    return warp(image, matrix, origin=centre(image), move=move)


def _evenly(key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0)
