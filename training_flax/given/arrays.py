"""Data sets from arrays: checked, in the types of the house, and told apart by a hash of their content."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common_flax.checks import check_images, check_pixels
from training_flax.data.dataset import Dataset, Split
from training_flax.data.source import CHUNK, MEASURED, channel_moments, label_bytes

Array = np.ndarray | jax.Array
Pair = tuple[Array, Array]
"""Images (examples, height, width, channels) or (examples, height, width), and labels (examples,), or of 0 and 1,
(examples, classes), if an image may have several classes."""


class Scale(NamedTuple):
    """The values that images in floating point may have, and the type that they are computed in.

    Attributes:
        free: any finite values, which the user normalises by a mean and std of his own; else pixels from 0 to 1.
        dtype: np.float32, or np.float64 for a network that computes in it.
    """

    free: bool = False
    dtype: type = np.float32


def dataset_from_arrays(
    train: Pair,
    test: Pair,
    *,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Dataset:
    """Makes a data set of arrays of NumPy or JAX, such as those of `keras.datasets.cifar10.load_data()`.

    Args:
        train, test: images and labels. Images are (examples, height, width, channels), or (examples, height, width) for
            grey ones; pixels from 0 to 255 if they are integers, or from 0 to 1 in floating point, or any finite values
            if `mean` and `std` are given. Labels are (examples,) or (examples, 1) integers from 0; or, where an image
            may have none or several classes, (examples, classes) integers or booleans, 1 for each class that it has.
        class_names: names of the labels, in order; None is "0", "1", … up to the largest label.
        mean, std: a number for each channel: networks see (value - mean) / std, for pixels from 0 to 1. None computes
            them from the train images.

    Raises:
        ValueError: one line that names what is wrong.
    """
    if (mean is None) != (std is None):
        raise ValueError(f"give mean and std, or neither; given mean={mean} and std={std}")
    moments = None if mean is None or std is None else (tuple(map(float, mean)), tuple(map(float, std)))
    return from_arrays(train, test, class_names=class_names, moments=moments)


def from_arrays(
    train: Pair,
    test: Pair,
    *,
    class_names: Sequence[str] | None = None,
    classes: int | None = None,
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    dtype: type = np.float32,
) -> Dataset:
    """Makes a data set as `dataset_from_arrays` of `classes` classes, if that is given; `moments` are mean and std."""
    scale = Scale(moments is not None, dtype)
    splits = [split_of_arrays(*pair, name, scale) for pair, name in ((train, "train"), (test, "test"))]
    shapes = [split.images.shape[1:] for split in splits]
    if shapes[0] != shapes[1]:
        raise ValueError(f"train and test images must have one shape; given {shapes[0]} and {shapes[1]}")
    names = names_of_classes([split.labels for split in splits], class_names, classes)
    mean, std = moments or moments_of(splits[0].images)
    check_moments(mean, std, shapes[0][2])
    return Dataset(
        name="arrays",
        train=splits[0],
        test=splits[1],
        class_names=names,
        mean=mean,
        std=std,
        train_sum=sum_of_arrays(splits[0]),
        test_sum=sum_of_arrays(splits[1]),
        pixels=all(are_pixels(split.images) for split in splits),
        moments_from=MEASURED if moments is None else "given",
    )


def split_of_arrays(images: Any, labels: Any, what: str, scale: Scale) -> Split:
    """Converts arrays to a split in memory; raises ValueError as `dataset_from_arrays`.

    Images in floating point that are whole pixels become uint8 again, which is exact, and needs a quarter of the
    memory. Others are scaled to 0 to 255.
    """
    pixels, numbers = images_of(images, what, scale, exact=True), labels_of(labels, what)
    if len(pixels) != len(numbers):
        raise ValueError(f"{what} images and labels must be as many; given {len(pixels)} and {len(numbers)}")
    if not len(numbers):
        raise ValueError(f"{what} images must be one or more; given none")
    return Split(pixels, numbers)


def images_of(given: Any, what: str, scale: Scale, *, exact: bool = False) -> np.ndarray:
    """Converts images to uint8, or to floating point from 0 to 255.

    Args:
        given: the images.
        what: their name in errors.
        scale: the values that they may have.
        exact: convert those in floating point to uint8 if nothing is lost.

    Raises:
        ValueError: they have a wrong shape, type or values; one line.
    """
    images = np.asarray(given)
    if images.ndim == 3:
        images = images[..., None]
    try:
        check_images(images.shape)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None
    check_pixels(f"{what} images", *images.shape[1:3])
    if images.dtype == np.uint8:
        return images
    if 0 in images.shape:
        raise ValueError(f"{what} images must have pixels; given shape {images.shape}")
    least, most = images.min(), images.max()
    if np.issubdtype(images.dtype, np.integer):
        if least < 0 or most > 255:
            raise ValueError(f"{what} images of integers must be from 0 to 255; given from {least} to {most}")
        return images.astype(np.uint8)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"{what} images must be integers or in floating point; given {images.dtype}")
    if not (np.isfinite(least) and np.isfinite(most)):
        raise ValueError(f"{what} images must be finite; given values from {least} to {most}")
    if not scale.free and (least < 0 or most > 1):
        raise ValueError(
            f"{what} images in floating point must be pixels from 0 to 1; given from {least:g} to {most:g}. For images "
            "that are normalised already, name mean and std: 0 and 1 for each channel leave them as they are"
        )
    if exact and least >= 0 and most <= 1 and (whole := _as_bytes(images)) is not None:
        return whole
    return (images.astype(scale.dtype) * 255).astype(scale.dtype, copy=False)


def _as_bytes(images: np.ndarray) -> np.ndarray | None:
    """Returns pixels from 0 to 1 as uint8; None if that would change them, beyond the rounding of float32."""
    whole = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), CHUNK):
        scaled = images[start : start + CHUNK].astype(np.float64) * 255
        whole[start : start + CHUNK] = rounded = np.rint(scaled)
        # A quotient of float32 is off by 2⁻²⁴ of itself at most.
        if np.abs(scaled - rounded).max() > 255 * 2.0**-24:
            return None
    return whole


def labels_of(given: Any, what: str) -> np.ndarray:
    """Converts labels to (examples,) int32, or (examples, classes) uint8; raises ValueError, one line, for others."""
    labels = np.asarray(given)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.shape[1] and (labels.dtype == bool or np.issubdtype(labels.dtype, np.integer)):
        if labels.size and (labels.min() < 0 or labels.max() > 1):
            given = f"from {labels.min()} to {labels.max()}"
            raise ValueError(f"{what} labels of several classes an image must be 0 and 1; given {given}")
        return labels.astype(np.uint8)
    if labels.ndim != 1:
        several = "; of several classes an image they are integers of 0 and 1"
        hint = f": use labels.argmax(-1){several}; given {labels.dtype}" if labels.ndim == 2 else ""
        raise ValueError(f"{what} labels must be (examples,) integers; given shape {labels.shape}{hint}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{what} labels must be integers from 0; given {labels.dtype}")
    if len(labels) and (labels.min() < 0 or labels.max() >= 2**24):
        raise ValueError(
            f"{what} labels must be from 0 to the number of classes - 1; given from {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int32)


def names_of_classes(labels: Sequence[np.ndarray], names: Sequence[str] | None, classes: int | None) -> tuple[str, ...]:
    """Returns the names of classes, which are numbers if none are given.

    Args:
        labels: of all splits, checked by `labels_of`; they must have one form.
        names: the names, or None.
        classes: the number of classes; None is that of the names, or else the largest label and one.

    Raises:
        ValueError: there are labels beyond the classes, or another number of names or columns.
    """
    columns = {part.shape[1:] for part in labels}
    if len(columns) > 1:
        raise ValueError(
            f"labels of all parts must have one form; given {', '.join(str(part.shape) for part in labels)}"
        )
    most = labels[0].shape[1] if labels[0].ndim == 2 else max(int(part.max()) for part in labels if len(part)) + 1
    if names is not None and classes not in (None, len(names)):
        raise ValueError(f"class_names must be num_classes, {classes}; given {len(names)}")
    count = len(names) if names is not None else classes or most
    if labels[0].ndim == 2 and most != count:
        raise ValueError(f"labels must have a column for each of {count} classes; given {most}")
    if most > count:
        raise ValueError(f"labels must be from 0 to {count - 1}, for {count} classes; given {most - 1}")
    return tuple(map(str, range(count) if names is None else names))


def check_moments(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raises ValueError unless mean and std have a finite number for each channel, and no std is 0."""
    fit = len(mean) == len(std) == channels and np.isfinite([*mean, *std]).all() and min(std) > 0
    if not fit:
        raise ValueError(
            f"mean and std must be {channels} numbers, one for each channel, and std positive; given {tuple(mean)} and "
            f"{tuple(std)}"
        )


def moments_of(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std of each channel, for pixels from 0 to 1, as `channel_moments`; of floating point too."""
    if images.dtype == np.uint8:
        return channel_moments(_chunks(images))
    count = images[..., 0].size
    mean = sum(chunk.astype(np.float64).sum((0, 1, 2)) for chunk in _chunks(images)) / count
    variance = sum(((chunk - mean) ** 2).sum((0, 1, 2)) for chunk in _chunks(images)) / count
    std = np.sqrt(variance)
    return tuple((mean / 255).tolist()), tuple(np.where(std == 0, 1, std / 255).tolist())


def are_pixels(images: np.ndarray) -> bool:
    """Tells if images, converted by `images_of`, are pixels; values from a mean and std of the user's may be others."""
    return images.dtype == np.uint8 or bool(images.min() >= 0 and images.max() <= 255)


def sum_of_arrays(split: Split) -> str:
    """Returns a hash of the pixels and labels of a split: sixteen hexadecimal digits."""
    digest = hashlib.sha256(repr((split.images.shape, str(split.images.dtype))).encode())
    for chunk in _chunks(split.images):
        digest.update(chunk.tobytes())
    digest.update(label_bytes(split.labels))
    return digest.hexdigest()[:16]


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
