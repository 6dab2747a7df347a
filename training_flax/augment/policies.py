"""AutoAugment and TrivialAugment: one or two operations on an image, drawn from published tables.

Images are (height, width, channels) float32 or float64 of values from 0 to 255, and so are the results.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from training_flax.augment import color
from training_flax.augment.affine import centre, warp
from training_flax.augment.rand_augment import autocontrast, equalize

PLACE_OPS = ("shear-x", "shear-y", "translate-x", "translate-y", "rotate")
FACTOR_OPS = ("brightness", "saturation", "contrast", "sharpness")
OPS = (*PLACE_OPS, *FACTOR_OPS, "posterize", "solarize", "autocontrast", "equalize", "invert", "identity")
SIGNED = (*PLACE_OPS, *FACTOR_OPS)
"""Operations whose amount is negative half of the time."""

SubPolicy = tuple[tuple[str, float, int | None], tuple[str, float, int | None]]
"""Two operations, one after the other: name, probability, and magnitude from 0 to 9 if it has one."""

# Cubuk et al., arXiv:1805.09501, table 9, as in torchvision.
IMAGENET: tuple[SubPolicy, ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
    (("equalize", 0.8, None), ("equalize", 0.6, None)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, None), ("solarize", 0.2, 4)),
    (("equalize", 0.4, None), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, None)),
    (("posterize", 0.8, 5), ("equalize", 1.0, None)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, None), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("saturation", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, None)),
    (("equalize", 0.0, None), ("equalize", 0.8, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("saturation", 1.0, 2)),
    (("saturation", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, None)),
    (("shear-x", 0.6, 5), ("equalize", 1.0, None)),
    (("saturation", 0.4, 0), ("equalize", 0.6, None)),
    (("equalize", 0.4, None), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, None), ("equalize", 0.6, None)),
)
# Table 7 of the same paper, as in torchvision.
CIFAR10: tuple[SubPolicy, ...] = (
    (("invert", 0.1, None), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate-x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear-y", 0.5, 8), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.5, None), ("equalize", 0.9, None)),
    (("shear-y", 0.2, 7), ("posterize", 0.3, 7)),
    (("saturation", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, None), ("equalize", 0.5, None)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("saturation", 0.7, 7), ("translate-x", 0.5, 8)),
    (("equalize", 0.3, None), ("autocontrast", 0.4, None)),
    (("translate-y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("saturation", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, None)),
    (("equalize", 0.2, None), ("autocontrast", 0.6, None)),
    (("equalize", 0.2, None), ("equalize", 0.6, None)),
    (("saturation", 0.9, 9), ("equalize", 0.6, None)),
    (("autocontrast", 0.8, None), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("saturation", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, None)),
    (("translate-y", 0.9, 9), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.9, None), ("solarize", 0.8, 3)),
    (("equalize", 0.8, None), ("invert", 0.1, None)),
    (("translate-y", 0.7, 9), ("autocontrast", 0.9, None)),
)


def auto_augment(key: jax.Array, image: jax.Array, *, policy: Sequence[SubPolicy] = IMAGENET) -> jax.Array:
    """Applies the two operations of a random sub-policy, each with its own probability and magnitude.

    Cubuk et al., arXiv:1805.09501, with the amounts of torchvision's AutoAugment. Between pixels the interpolation is
    bilinear, and pixels from outside the image are black.

    Args:
        key, image: PRNG key and image, of 1 or 3 channels; ValueError for others.
        policy: `IMAGENET` or `CIFAR10`.
    """
    table = auto_augment_amounts(*image.shape[:2])
    op_of = np.array([[OPS.index(name) for name, _, _ in pair] for pair in policy])
    rates = np.array([[rate for _, rate, _ in pair] for pair in policy])
    amounts = np.array([[table[name][magnitude or 0] for name, _, magnitude in pair] for pair in policy])
    chosen_key, *keys = jax.random.split(key, 3)
    chosen = jax.random.randint(chosen_key, (), 0, len(policy))
    for number, op_key in enumerate(keys):
        use_key, sign_key = jax.random.split(op_key)
        op = jnp.asarray(op_of)[chosen, number]
        amount = _signed(sign_key, op, jnp.asarray(amounts)[chosen, number])
        use = jax.random.uniform(use_key) < jnp.asarray(rates)[chosen, number]
        image = jnp.where(use, apply_op(op, amount, image), image)
    return image


def auto_augment_cifar10(key: jax.Array, image: jax.Array) -> jax.Array:
    """Applies `auto_augment` with the policy that was found for CIFAR-10."""
    return auto_augment(key, image, policy=CIFAR10)


def trivial_augment(key: jax.Array, image: jax.Array) -> jax.Array:
    """Applies one operation, each as probable as any other, with a random one of 31 amounts.

    Müller and Hutter, arXiv:2103.10158, table 1, "Wide", as torchvision's TrivialAugmentWide; interpolation and border
    as in `auto_augment`. Raises ValueError unless the image has 1 or 3 channels.
    """
    table = trivial_augment_amounts()
    op_key, amount_key, sign_key = jax.random.split(key, 3)
    chosen = jax.random.randint(op_key, (), 0, len(table))
    op = jnp.array([OPS.index(name) for name in table])[chosen]
    amounts = jnp.asarray(np.array(list(table.values())))
    amount = amounts[chosen, jax.random.randint(amount_key, (), 0, amounts.shape[1])]
    return apply_op(op, _signed(sign_key, op, amount), image)


def auto_augment_amounts(height: int, width: int) -> dict[str, np.ndarray]:
    """Returns the amounts of each operation at the magnitudes 0 to 9, for images of this size; see `apply_op`."""
    return _amounts(
        10, shear=0.3, shifts=(150 / 331 * width, 150 / 331 * height), turn=30, factor=0.9, bits=4, without="identity"
    )


def trivial_augment_amounts() -> dict[str, np.ndarray]:
    """Returns the 31 amounts of each operation, for images of any size; see `apply_op`."""
    return _amounts(31, shear=0.99, shifts=(32, 32), turn=135, factor=0.99, bits=6, without="invert")


def _amounts(
    count: int, *, shear: float, shifts: tuple[float, float], turn: float, factor: float, bits: int, without: str
) -> dict[str, np.ndarray]:
    """Returns `count` amounts of each operation, up to the given ones."""
    most = [shear, shear, *shifts, turn, *[factor] * len(FACTOR_OPS)]
    table = {name: np.linspace(0, end, count) for name, end in zip(SIGNED, most, strict=True)}
    for name in ("translate-x", "translate-y"):
        table[name] = np.floor(table[name])  # whole pixels
    table["posterize"] = 8 - np.round(np.arange(count) / ((count - 1) / bits))
    table["solarize"] = np.linspace(255, 0, count)
    return {name: table.get(name, np.zeros(count)) for name in OPS if name != without}


def _signed(key: jax.Array, op: jax.Array, amount: jax.Array) -> jax.Array:
    """Returns the amount, negative half of the time where an operation has two directions."""
    return jnp.where(op < len(SIGNED), jax.random.rademacher(key, ()), 1) * amount


def apply_op(op: jax.Array, amount: jax.Array, image: jax.Array) -> jax.Array:
    """Applies the operation of index `op` in `OPS`, as Pillow defines it, but without rounding to whole grey levels.

    Args:
        op: () integer.
        amount: (): columns per row or rows per column (shear), pixels to the right or down (translate), degrees against
            the clock (rotate), a factor less 1 (brightness to sharpness), the bits that stay (posterize), the lowest
            grey level that is inverted (solarize); of no effect in the others.
        image: (height, width, channels).
    """
    step = 2.0 ** (8 - amount)
    branches: list[Callable[[jax.Array], jax.Array]] = [
        lambda x: _move(op, amount, x),
        lambda x: color.brightness(x, 1 + amount),
        lambda x: color.saturation(x, 1 + amount),
        lambda x: color.contrast(x, 1 + amount),
        lambda x: color.sharpness(x, 1 + amount),
        lambda x: jnp.floor(x / step) * step,
        lambda x: jnp.where(x < amount, x, 255 - x),
        autocontrast,
        equalize,
        lambda x: 255 - x,
        lambda x: x,
    ]
    # Under vmap all branches run, so the operations that move pixels share one branch, which is the most expensive.
    return jax.lax.switch(jnp.maximum(op - len(PLACE_OPS) + 1, 0), branches, image)


def _move(op: jax.Array, amount: jax.Array, image: jax.Array) -> jax.Array:
    turn = jnp.radians(amount)
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    still = [[1, 0], [0, 1]]
    matrix = jnp.array([[[1, 0], [amount, 1]], [[1, amount], [0, 1]], still, still, [[cos, sin], [-sin, cos]]])
    move = jnp.zeros((5, 2)).at[2, 1].set(-amount).at[3, 0].set(-amount)  # both in the order of PLACE_OPS
    # Shears fix the upper left corner of the image, half a pixel from the first pixel's centre.
    origin = jnp.where(op == PLACE_OPS.index("rotate"), centre(image), -0.5)
    which = jnp.minimum(op, len(PLACE_OPS) - 1)
    return warp(image, matrix[which], origin=origin, move=move[which])
