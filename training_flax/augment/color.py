"""Brightness, contrast, saturation, sharpness and hue of an image: pure functions on the device.

The first four mix an image (height, width, channels) of values from 0 to 255 with a dull image and clip the result to
0 to 255: a factor of 0 gives the dull image, 1 the image itself, more exaggerates. The definitions are from Pillow's
ImageEnhance and torchvision's ColorJitter, without their rounding to whole grey levels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Mixes the image with black."""
    return _blend(jnp.zeros_like(image), image, factor)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Mixes the image with its mean grey level. Raises ValueError as `grey` does."""
    return _blend(grey(image).mean(), image, factor)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Mixes the image with its grey version; images of one channel stay the same. Raises ValueError as `grey` does."""
    return _blend(grey(image), image, factor)


def sharpness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Mixes the image with a smooth one: a 3 × 3 kernel, 5 in the middle and 1 around it; border pixels stay."""
    rows = image[:-2] + image[1:-1] + image[2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    smooth = image.at[1:-1, 1:-1].set((sums + 4 * image[1:-1, 1:-1]) / 13)
    return _blend(smooth, image, factor)


def turn_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Turns each pixel's hue by a share of the colour circle; images of one channel stay the same.

    Value and saturation of HSV stay (Smith, Color gamut transform pairs, SIGGRAPH 1978). Raises ValueError as `grey`.
    """
    if grey(image).shape == image.shape:
        return image
    red, green, blue = jnp.moveaxis(image, -1, 0)
    high, low = image.max(-1), image.min(-1)
    span = high - low
    whole = jnp.where(span > 0, span, 1)
    # The hue in sixths of the circle, from red on; that of grey pixels has no effect.
    sixths = jnp.where(high == green, 2 + (blue - red) / whole, 4 + (red - green) / whole)
    sixths = jnp.where(high == red, (green - blue) / whole, sixths)
    places = (sixths + 6 * turn)[..., None] + jnp.array([5, 3, 1], image.dtype)
    places = places % 6
    return high[..., None] - span[..., None] * jnp.clip(jnp.minimum(places, 4 - places), 0, 1)


def grey(image: jax.Array) -> jax.Array:
    """Returns the luma of ITU-R BT.601, (height, width, 1).

    An image of 1 channel is returned unchanged; any number of channels but 1 and 3 raises ValueError.
    """
    channels = image.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"colour needs images of 1 or 3 channels; given {channels}")
    if channels == 1:
        return image
    red, green, blue = jnp.split(image, 3, -1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def colour_jitter(key: jax.Array, image: jax.Array, *, strength: float = 0.4, hue: float = 0.0) -> jax.Array:
    """Changes brightness, contrast and saturation, in random order, by factors uniform in 1 ± `strength`.

    With `hue`, a fourth change among them turns the hue by a share of the colour circle that is uniform in ± `hue`. The
    amounts and the random order are those of torchvision's ColorJitter; the idea is from Howard, arXiv:1312.5402,
    section 2. The result is float32. The largest `strength` is 1, the largest `hue` 0.5. Raises ValueError as `grey`.
    """
    factor_key, order_key = jax.random.split(key)
    factors = jax.random.uniform(factor_key, (3,), minval=1 - strength, maxval=1 + strength)
    changes: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = (brightness, contrast, saturation)
    if hue:
        turn = jax.random.uniform(jax.random.fold_in(factor_key, 1), (1,), minval=-hue, maxval=hue)
        factors, changes = jnp.concatenate([factors, turn]), (*changes, turn_hue)
    for which in jax.random.permutation(order_key, len(changes)):
        image = jax.lax.switch(which, changes, image, factors[which])
    return image


def _blend(dull: jax.Array, image: jax.Array, factor: jax.Array) -> jax.Array:
    # In this form a factor of 1 returns the image exactly.
    return jnp.clip(image + (factor - 1) * (image - dull), 0, 255)
