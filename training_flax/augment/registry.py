"""Augmentations, random changes of images that keep their labels, by name; and their use on a batch."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from common_flax.checks import one_of
from training_flax.augment.affine import random_affine
from training_flax.augment.color import colour_jitter
from training_flax.augment.crops import pad_and_crop, random_flip, random_resized_crop
from training_flax.augment.erasing import random_erasing
from training_flax.augment.policies import auto_augment, auto_augment_cifar10, trivial_augment
from training_flax.augment.rand_augment import rand_augment

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]
"""A pure function (key, image) → image of (height, width, channels), float32 or wider, of values from 0 to 255."""


class _Choice(NamedTuple):
    function: Callable[..., jax.Array]
    keyword: str = ""  # the argument that a number after the name's colon sets; empty if there is none
    kind: type[int] | type[float] = float
    most: float = 0.0  # the largest allowed number
    second: str = ""  # the argument that a second number sets
    most_of_second: float = 0.0


_CHOICES = {
    "affine": _Choice(random_affine, "factor", float, 5.0),
    "pad-crop": _Choice(pad_and_crop, "padding", int, 64),
    "flip": _Choice(random_flip),
    "random-resized-crop": _Choice(random_resized_crop, "min_area", float, 1.0),
    "color": _Choice(colour_jitter, "strength", float, 1.0, "hue", 0.5),
    "rand-augment": _Choice(rand_augment, "magnitude", float, 10.0, "noise", 10.0),
    "auto-augment": _Choice(auto_augment),
    "auto-augment-cifar10": _Choice(auto_augment_cifar10),
    "trivial-augment": _Choice(trivial_augment),
    "random-erasing": _Choice(random_erasing, "probability", float, 1.0),
}
AUGMENTATIONS = (*_CHOICES, "none")


def current_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns `names` with the old spelling "colour" replaced by "color"."""
    return tuple(name.replace("colour", "color") for name in names)


def parse_augmentations(names: Sequence[str], *, interpolation: str = "bilinear") -> tuple[Augmentation, ...]:
    """Returns the functions of `names`, each one of `AUGMENTATIONS` with or without a number: ("pad-crop:4", "flip").

    The number is the factor on all amounts of "affine" (1), the padding of "pad-crop" (4), the smallest area of
    "random-resized-crop" (0.08), the strength of "color" (0.4), the magnitude of "rand-augment" (6) or the probability
    of "random-erasing" (0.5). Two take a second number: "color" the largest turn of the hue (0), "color:0.4:0.1", and
    "rand-augment" the standard deviation of its magnitude (0), "rand-augment:6:0.5". "random-resized-crop" interpolates
    as asked.

    Raises:
        ValueError: a name is unknown or repeated, a number is out of range, or "none" stands beside others.
    """
    if tuple(names) == ("none",):
        return ()
    given = [name.partition(":")[0] for name in current_names(names)]
    for name in given:
        one_of("augmentation", name, AUGMENTATIONS)
        if given.count(name) > 1:
            raise ValueError(f"each augmentation may be given once; {name!r} is given {given.count(name)} times")
    if "none" in given:
        raise ValueError(f"augmentation 'none' stands alone; given {', '.join(map(repr, names))}")
    crop: dict[str, Any] = {"interpolation": interpolation}
    changes = (_parse(name) for name in names)
    return tuple(
        partial(change, **crop) if name == "random-resized-crop" else change
        for name, change in zip(given, changes, strict=True)
    )


def _parse(text: str) -> Augmentation:
    name, *numbers = text.split(":")
    choice = _CHOICES[current_names([name])[0]]
    if not numbers:
        return choice.function
    bounds = {choice.keyword: choice.most, choice.second: choice.most_of_second}
    bounds.pop("", None)
    if not bounds:
        raise ValueError(f"augmentation {name!r} takes no number; given {text!r}")
    values: dict[str, float] = {}
    for keyword, number in zip(bounds, numbers, strict=False):
        try:
            values[keyword] = choice.kind(number)
        except ValueError:
            values[keyword] = -1
    if len(numbers) > len(bounds) or not all(0 <= value <= bounds[keyword] for keyword, value in values.items()):
        what = "a whole number" if choice.kind is int else "a number"
        shown = list(bounds.items())[: 2 if len(numbers) > 1 else 1]
        each = " and one".join(f" from 0 to {most:g} as {keyword}" for keyword, most in shown)
        raise ValueError(f"augmentation {name!r} takes {what}{each}; given {text!r}")
    return partial(choice.function, **values)


def example_keys(key: jax.Array, epochs: jax.Array, examples: jax.Array) -> jax.Array:
    """Returns PRNG keys (batch,) that depend on `key`, epoch and example only, not on batch or device.

    Args:
        key: PRNG key, used for nothing else.
        epochs: (batch,) integers, the epoch of each example.
        examples: (batch,) integers, each example's index in the data set.
    """
    fold_in = jax.random.fold_in
    return jax.vmap(lambda epoch, example: fold_in(fold_in(key, epoch), example))(epochs, examples)


def augment_images(
    augmentations: Sequence[Augmentation], keys: jax.Array, images: jax.Array, dtype: Any = jnp.float32
) -> jax.Array:
    """Applies all augmentations in turn to each image.

    Args:
        augmentations: see `parse_augmentations`.
        keys: (batch,) PRNG keys, see `example_keys`.
        images: (batch, height, width, channels) of values from 0 to 255, of any type.
        dtype: the type to compute in, float32 or float64.

    Returns:
        Images of the same shape, of the type `dtype`.
    """

    def change(key: jax.Array, image: jax.Array) -> jax.Array:
        for number, augmentation in enumerate(augmentations):
            image = augmentation(jax.random.fold_in(key, number), image)
        return image

    return jax.vmap(change)(keys, images.astype(dtype))
