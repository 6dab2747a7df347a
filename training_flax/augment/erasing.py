"""Random erasing: a box of an image is replaced by noise."""

import math

import jax
import jax.numpy as jnp

from training_flax.augment.crops import Box

_TRIES = 10
AREAS = (0.02, 0.33)  # shares of the image's area
ASPECTS = (0.3, 3.3)  # height over width


def random_erasing(key: jax.Array, image: jax.Array, *, probability: float = 0.5) -> jax.Array:
    """Fills a random box of the image with noise, with the given probability.

    Zhong et al., arXiv:1708.04896, algorithm 1, with the areas, aspects, ten tries and probability of torchvision's
    RandomErasing. The noise is the paper's best, RE-R in table 6: each channel of each pixel is uniform from 0 to 255.
    (Torchvision fills with the mean colour, or with normal noise; timm with normal noise.)

    Args:
        key, image: PRNG key and image (height, width, channels), float32 or float64, of values from 0 to 255.
        probability: probability that a box is erased, from 0 to 1.
    """
    use_key, box_key, noise_key = jax.random.split(key, 3)
    box = random_box(box_key, *image.shape[:2])
    rows, columns = jnp.arange(image.shape[0])[:, None], jnp.arange(image.shape[1])
    inside = (rows >= box.top) & (rows < box.top + box.height) & (columns >= box.left)
    inside &= (columns < box.left + box.width) & jax.random.bernoulli(use_key, probability)
    noise = jax.random.uniform(noise_key, image.shape, image.dtype, maxval=255)
    return jnp.where(inside[..., None], noise, image)


def random_box(key: jax.Array, height: int, width: int) -> Box:
    """Draws a box: the area uniform in `AREAS`, the aspect log-uniform in `ASPECTS`, the place uniform.

    Of ten draws of area and aspect `first_that_fits` takes one.
    """
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    areas = jax.random.uniform(area_key, (_TRIES,), minval=AREAS[0], maxval=AREAS[1])
    low, high = map(math.log, ASPECTS)
    aspects = jnp.exp(jax.random.uniform(aspect_key, (_TRIES,), minval=low, maxval=high))
    box_height, box_width = first_that_fits(areas, aspects, height, width)
    space = jnp.stack([height - box_height, width - box_width])
    top, left = jax.random.randint(place_key, (2,), 0, space + 1)
    return Box(top, left, box_height, box_width)


def first_that_fits(areas: jax.Array, aspects: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Returns height and width of the first box that is smaller than the image both ways; 0 and 0 if none is.

    Args:
        areas, aspects: (tries,) shares of the image's area, and heights over widths.
        height, width: pixels of the image.
    """
    pixels = height * width * areas
    heights = jnp.round(jnp.sqrt(pixels * aspects)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(pixels / aspects)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = fits.argmax()
    return jnp.where(fits.any(), heights[first], 0), jnp.where(fits.any(), widths[first], 0)
