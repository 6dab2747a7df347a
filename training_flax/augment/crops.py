"""Random crops and flips of an image: pure functions of a key, on the device.

Images are (height, width, channels); the results have the same shape and type.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_TRIES = 10
_ASPECTS = (3 / 4, 4 / 3)  # width over height


def pad_and_crop(key: jax.Array, image: jax.Array, *, padding: int = 4) -> jax.Array:
    """Pads each side with black and takes a crop of the image's own size, all positions with equal probability.

    He et al., arXiv:1512.03385, section 4.2. The paper subtracts the mean first, so its padding has the mean colour;
    torchvision's RandomCrop pads with black.

    Args:
        key, image: PRNG key and image.
        padding: pixels on each side.
    """
    offset = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(padded, (*offset, 0), image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Swaps left and right of an image with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_resized_crop(
    key: jax.Array, image: jax.Array, *, min_area: float = 0.08, interpolation: str = "bilinear"
) -> jax.Array:
    """Cuts a random box out of the image and resizes it to the image's size.

    Szegedy et al., arXiv:1409.4842, section 6; the box is from `random_box`.

    Args:
        key, image: PRNG key and image, float32 or float64, of values from 0 to 255.
        min_area: smallest share of the image's area, before rounding to whole pixels.
        interpolation: see `resized_box`.
    """
    return resized_box(image, random_box(key, *image.shape[:2], min_area=min_area), interpolation)


def resized_box(image: jax.Array, box: "Box", interpolation: str = "bilinear") -> jax.Array:
    """Resizes a box within the image to the image's size.

    At the box's border the interpolation uses the pixels next to the box too, where torchvision repeats the outermost
    pixels inside.

    Args:
        image: as of `random_resized_crop`.
        box: the box.
        interpolation: "bilinear" or "bicubic", by Pillow's kernels.
    """
    size = jnp.array(image.shape[:2], image.dtype)
    scale = size / jnp.stack([box.height, box.width])
    move = -scale * jnp.stack([box.top, box.left])
    if interpolation == "bicubic":
        # As in Pillow, values that overshoot are cut off after each pass.
        for axis in (1, 0):
            along = (scale[axis : axis + 1], move[axis : axis + 1])
            image = jnp.clip(jax.image.scale_and_translate(image, image.shape, (axis,), *along, "cubic"), 0, 255)
        return image
    return jnp.clip(jax.image.scale_and_translate(image, image.shape, (0, 1), scale, move, "linear"), 0, 255)


class Box(NamedTuple):
    """A rectangle within an image, in whole pixels: each () int32."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def random_box(key: jax.Array, height: int, width: int, *, min_area: float = 0.08) -> Box:
    """Draws a box within an image, from the distribution of torchvision's RandomResizedCrop.

    The area is uniform from `min_area` to 1 of the image's area, and width over height is log-uniform from 3/4 to 4/3.
    The first of 10 draws that fits into the image is placed uniformly. If none fits, the box is the largest central
    one whose width over height is from 3/4 to 4/3.
    """
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    area = height * width * jax.random.uniform(area_key, (_TRIES,), minval=min_area)
    low, high = _ASPECTS
    aspect = jnp.exp(jax.random.uniform(aspect_key, (_TRIES,), minval=math.log(low), maxval=math.log(high)))
    # All 10 are drawn before one is chosen, because shapes cannot depend on values under jit.
    heights = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first, any_fits = fits.argmax(), fits.any()
    box_height = jnp.where(any_fits, heights[first], min(height, round(width / low)))
    box_width = jnp.where(any_fits, widths[first], min(width, round(height * high)))
    space = jnp.stack([height - box_height, width - box_width])
    top, left = jnp.where(any_fits, jax.random.randint(place_key, (2,), 0, space + 1), space // 2)
    return Box(top, left, box_height, box_width)
