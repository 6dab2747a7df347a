"""RandAugment: a few random operations on an image, all of one magnitude.

Images are (height, width, channels) float32 of values from 0 to 255, and so are the results. Magnitudes: 0 to 10.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from training_flax.augment import color
from training_flax.augment.affine import centre, warp

TONE_OPS = ("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize-add")
COLOUR_OPS = (*TONE_OPS, "saturation", "contrast", "brightness", "sharpness")
PLACE_OPS = ("rotate", "shear-x", "shear-y", "translate-x", "translate-y")
OPS = COLOUR_OPS + PLACE_OPS
_FILL = 128.0
_STREAM = 3  # folded into a layer's key, for its magnitude


def rand_augment(
    key: jax.Array, image: jax.Array, *, magnitude: float = 6.0, noise: float = 0.0, layers: int = 2
) -> jax.Array:
    """Applies a random op of `OPS` to the image `layers` times, each time with probability 1/2.

    Cubuk et al., arXiv:1909.13719, section 3, with the probability, ops and amounts of "ResNet strikes back" (Wightman
    et al., arXiv:2110.00476): timm's "increasing" ops, which change an image more at a larger magnitude.

    Args:
        key, image: PRNG key and image, of 1 or 3 channels; ValueError for others.
        magnitude: the magnitude, or its mean.
        noise: standard deviation of each op's magnitude, which is cut off at 0 and 10: timm's `mstd`.
        layers: number of ops.
    """
    for layer_key in jax.random.split(key, layers):
        op_key, sign_key, use_key = jax.random.split(layer_key, 3)
        op = jax.random.randint(op_key, (), 0, len(OPS))
        sign = jax.random.rademacher(sign_key, ())
        drawn: Any = magnitude
        if noise:
            drawn = magnitude + noise * jax.random.normal(jax.random.fold_in(layer_key, _STREAM))
            drawn = jnp.clip(drawn, 0, 10)
        image = jnp.where(jax.random.bernoulli(use_key), apply_op(op, sign, image, drawn), image)
    return image


def apply_op(op: jax.Array, sign: jax.Array, image: jax.Array, magnitude: Any) -> jax.Array:
    """Applies the op of index `op` in `OPS`, as Pillow defines it, but without rounding to whole grey levels.

    `op` and `sign` are () integers. The sign, 1 or -1, is the direction of rotation, shear or shift; +1 enhances, -1
    dulls. Pixels from outside the image are mid-grey, 128.
    """
    amount = magnitude / 10
    factor = jnp.maximum(0.1, 1 + 0.9 * amount * sign)
    whole = int if isinstance(amount, int | float) else jnp.floor
    step = 2 ** (4 + whole(4 * amount))
    threshold = 256 - whole(256 * amount)
    add = whole(110 * amount)
    branches: list[Callable[[jax.Array], jax.Array]] = [
        autocontrast,
        equalize,
        lambda x: 255 - x,
        lambda x: jnp.floor(x / step) * step,
        lambda x: jnp.where(x < threshold, x, 255 - x),
        lambda x: jnp.where(x < 128, jnp.minimum(x + add, 255), x),
        lambda x: color.saturation(x, factor),
        lambda x: color.contrast(x, factor),
        lambda x: color.brightness(x, factor),
        lambda x: color.sharpness(x, factor),
        lambda x: _move(op - len(COLOUR_OPS), sign * amount, x),
    ]
    # Under vmap all branches run, so the ops that move pixels share one branch, which is the most expensive.
    return jax.lax.switch(jnp.minimum(op, len(COLOUR_OPS)), branches, image)


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel to the range 0 to 255; a channel of a single grey level stays the same."""
    # Rounding keeps a channel that is constant within rounding from being stretched.
    low, high = jnp.round(image.min((0, 1))), jnp.round(image.max((0, 1)))
    stretched = (image - low) * (255 / jnp.maximum(high - low, 1))
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), image)


@partial(jax.vmap, in_axes=-1, out_axes=-1)
def equalize(channel: jax.Array) -> jax.Array:
    """Maps the grey levels of each channel of an image to about equal frequencies, by Pillow's formula."""
    levels = jnp.round(channel).astype(jnp.int32)
    counts = jnp.bincount(levels.ravel(), length=256)
    step = (levels.size - counts[levels.max()]) // 255
    below = jnp.cumsum(counts) - counts
    table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table[levels].astype(channel.dtype), channel)


def _move(op: jax.Array, amount: jax.Array, image: jax.Array) -> jax.Array:
    height, width, _ = image.shape
    turn, slant, share = math.radians(30) * amount, 0.3 * amount, 0.45 * amount
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    turned, still = [[cos, sin], [-sin, cos]], [[1, 0], [0, 1]]
    matrix = jnp.array([turned, [[1, 0], [slant, 1]], [[1, slant], [0, 1]], still, still])  # in the order of PLACE_OPS
    move = jnp.zeros((5, 2)).at[3, 1].set(share * width).at[4, 0].set(share * height)
    # Shears fix the upper left corner of the image, half a pixel from the first pixel's centre.
    origin = jnp.where(op == 0, centre(image), -0.5)
    return warp(image, matrix[op], origin=origin, move=move[op], fill=_FILL)
