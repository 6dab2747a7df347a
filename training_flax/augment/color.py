"""Brightness, contrast, saturation and sharpness of an image: pure functions on the device.

Each mixes an image (height, width, channels) of values from 0 to 255 with a dull one and clips the result to 0 to 255:
a factor of 0 gives the dull one, 1 the image, more exaggerates. The definitions are those of Pillow's ImageEnhance and
of torchvision's ColorJitter, without their rounding to whole grey levels.
"""

import jax
import jax.numpy as jnp


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """The dull image is black."""
    return _blend(jnp.zeros_like(image), image, factor)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """The dull image is evenly of the mean grey. Raises ValueError where `grey` does."""
    return _blend(grey(image).mean(), image, factor)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """The dull image is the grey one; images of one channel stay as they are. Raises ValueError where `grey` does."""
    return _blend(grey(image), image, factor)


def sharpness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """The dull image is smoothed by a kernel of 3 × 3, 5 in the middle and 1 around it, within the outermost pixels."""
    rows = image[:-2] + image[1:-1] + image[2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    smooth = image.at[1:-1, 1:-1].set((sums + 4 * image[1:-1, 1:-1]) / 13)
    return _blend(smooth, image, factor)


def grey(image: jax.Array) -> jax.Array:
    """Luma of ITU-R BT.601, (height, width, 1), of an image of 3 channels; of 1 channel, the image itself.

    Raises:
        ValueError: there are neither 1 nor 3 channels.
    """
    channels = image.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"colour needs images of 1 or 3 channels; given {channels}")
    if channels == 1:
        return image
    red, green, blue = jnp.split(image, 3, -1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def colour_jitter(key: jax.Array, image: jax.Array, *, strength: float = 0.4) -> jax.Array:
    """Changes brightness, contrast and saturation, in random order, by factors uniform in 1 ± `strength`.

    The amounts and the random order are torchvision's ColorJitter; such jitter is from Howard, arXiv:1312.5402,
    section 2.

    Args:
        key: PRNG key.
        image: (height, width, channels) float32 of values from 0 to 255.
        strength: at most 1.

    Returns:
        Float32 of the shape of `image`, from 0 to 255.

    Raises:
        ValueError: there are neither 1 nor 3 channels.
    """
    factor_key, order_key = jax.random.split(key)
    factors = jax.random.uniform(factor_key, (3,), minval=1 - strength, maxval=1 + strength)
    for which in jax.random.permutation(order_key, 3):
        image = jax.lax.switch(which, (brightness, contrast, saturation), image, factors[which])
    return image


def _blend(dull: jax.Array, image: jax.Array, factor: jax.Array) -> jax.Array:
    # Written so that a factor of 1 returns the image itself.
    return jnp.clip(image + (factor - 1) * (image - dull), 0, 255)
