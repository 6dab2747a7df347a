"""Data sets from iterables of batches: read anew for each epoch, checked, in the types of the house."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np

from common_flax.checks import check_positive
from training_flax.data.dataset import BatchedSplit, Dataset, Split
from training_flax.data.loader import UnreadableImage
from training_flax.data.source import MEMORY_LIMIT, MOMENTS_LIMIT
from training_flax.given.arrays import (
    Pair,
    Scale,
    are_pixels,
    check_moments,
    images_of,
    labels_of,
    moments_of,
    names_of_classes,
    split_of_arrays,
)
from training_flax.runtime.users_code import users_code

KEYS = ("image", "label")
Pixels = tuple[np.ndarray, np.ndarray]

Source = Iterable[Any] | Callable[[], Iterable[Any]]
"""An iterable that can be read again and again, or a function that returns one for each epoch."""


@dataclass(frozen=True)
class Batches:
    """Train and test images that come in batches, such as from PyTorch's `DataLoader`, Grain or `tf.data`.

    A batch is (images, labels) or {"image": images, "label": labels}, of arrays that NumPy reads, with the shapes and
    values of `dataset_from_arrays`. Each batch is a step, and each pass over the iterable an epoch. All batches have as
    many images as the first; the last one of an epoch may have fewer, and is filled up with images of the one before.

    Attributes:
        train: an iterable that is begun anew for each epoch, or a function without arguments that returns an iterable.
            An iterator, which can be read once only, is an error.
        test: the same, in one order and of any sizes of batches; or images and labels as arrays. Up to 1 GiB is kept in
            memory; more is read again for each evaluation.
        length: the number of batches in an epoch, after which the rest is left; None is `len(train)`.
        class_names: names of the labels, in order; None is "0", "1", … up to the largest label of the test images and
            of the first train images, or as many as `num_classes` in the config.
    """

    train: Source
    test: Source | Pair
    length: int | None = None
    class_names: Sequence[str] | None = None


class Form(NamedTuple):
    """The form of all batches.

    Attributes:
        scale: the values that images may have.
        shape: (height, width, channels) of an image.
        dtype: the type of converted images.
        classes: the number of classes.
        several: an image may have none, one or several classes.
    """

    scale: Scale
    shape: tuple[int, int, int]
    dtype: np.dtype
    classes: int
    several: bool = False


def is_pair(part: object) -> bool:
    """Tells if a part of the data is images and labels as arrays, and not an iterable of batches."""
    return isinstance(part, tuple | list) and len(part) == 2 and all(hasattr(each, "__array__") for each in part)


def from_batches(
    given: Batches,
    *,
    classes: int | None = None,
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    dtype: type = np.float32,
) -> tuple[Dataset, int]:
    """Makes a data set of a user's batches, with the number of images in each.

    Reads the test part whole, and of the train part what mean and std are computed from, 2,000 images at most.

    Args:
        given: the batches.
        classes: the number of classes, or None.
        moments: mean and std of each channel; None computes them.
        dtype: the type of images in floating point, float32 or float64.

    Raises:
        ValueError: one line that names what is wrong.
    """
    scale, begin = Scale(moments is not None, dtype), _anew(given.train, "train")
    length = _length(given)
    first, sample = _sample(begin, length, scale, MOMENTS_LIMIT if moments is None else 1)
    size, images = len(first), np.concatenate([images for images, _ in sample])
    shape: Any = images.shape[1:]
    test = _test_split(given.test, scale, shape)
    names = names_of_classes([test.labels, *(labels for _, labels in sample)], given.class_names, classes)
    form = Form(scale, shape, images.dtype, len(names), test.labels.ndim == 2)
    mean, std = moments or moments_of(images)
    check_moments(mean, std, shape[2])
    known = are_pixels(images) and (not isinstance(test, Split) or are_pixels(test.images))
    split = BatchedSplit(length * size, test.labels[:0], shape, images.dtype, lambda: _full(begin, length, size, form))
    origin = "of the first images" if moments is None else "given"
    note = f"an epoch is {length} batches of {size} images, in the order of the iterable"
    data = Dataset("batches", split, test, names, mean, std, notes=(note,), pixels=known, moments_from=origin)
    return data, size


def _length(given: Batches) -> int:
    if given.length is not None:
        check_positive("length", given.length)
        return given.length
    try:
        if not isinstance(given.train, Sized):
            raise TypeError
        length = len(given.train)  # of tf.data a TypeError if it is not known
    except TypeError:
        kind = type(given.train).__name__
        raise ValueError(
            f"the number of batches in an epoch is not known, as {kind!r} has no len(): give "
            "data=Batches(train, test, length=…)"
        ) from None
    if not length:
        raise ValueError("train batches must be one or more; given none")
    return length


def _anew(source: Source | Pair, what: str) -> Callable[[], Iterator[Any]]:
    """Returns a function that begins an iterable anew; raises ValueError for what cannot be iterated twice."""
    if isinstance(source, Iterator):
        raise ValueError(
            f"{what} batches must be read anew for each epoch, and {type(source).__name__!r} is an iterator, read once "
            "only: give a list, a loader, or a function that returns an iterator"
        )
    if isinstance(source, Iterable):
        return lambda: _theirs(lambda: source)
    if callable(source):
        return lambda: _theirs(source)
    raise ValueError(f"{what} batches must be an iterable, or a function that returns one; given {source!r:.60}")


def _theirs(source: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Yields from an iterable of the user's, whose errors stay what they are."""
    with users_code():
        batches = iter(source())
    while True:
        with users_code():
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


def _sample(
    begin: Callable[[], Iterator[Any]], length: int, scale: Scale, most: int
) -> tuple[np.ndarray, list[Pixels]]:
    """Returns the images of the first batch, and the first batches with `most` images and those that complete one."""
    sample: list[Pixels] = []
    for number, batch in enumerate(islice(begin(), length), 1):
        sample.append(_converted(batch, f"train batch {number}:", scale))
        if sample[-1][0].shape[1:] != sample[0][0].shape[1:]:
            raise ValueError(f"images of all batches must have one shape; given {_shapes(sample)}")
        if sum(len(images) for images, _ in sample) >= most:
            break
    if not sample or not len(sample[0][1]):
        raise ValueError("train batches must have images; the first has none")
    return sample[0][0], sample


def _shapes(sample: list[Pixels]) -> str:
    return " and ".join(str(images.shape[1:]) for images, _ in (sample[0], sample[-1]))


def _converted(batch: Any, where: str, scale: Scale) -> Pixels:
    """Converts a batch to images and labels, copied, because the user's arrays may be filled anew meanwhile."""
    if isinstance(batch, Mapping):
        missing = [key for key in KEYS if key not in batch]
        if missing:
            raise ValueError(f"{where} it must have 'image' and 'label'; given {', '.join(map(repr, batch))}")
        batch = tuple(batch[key] for key in KEYS)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        given = f"{len(batch)} entries" if isinstance(batch, tuple | list) else repr(type(batch).__name__)
        raise ValueError(f"{where} it must be (images, labels) or {{'image': …, 'label': …}}; given {given}")
    images, labels = images_of(batch[0], where, scale), labels_of(batch[1], where)
    if len(images) != len(labels):
        raise ValueError(f"{where} images and labels must be as many; given {len(images)} and {len(labels)}")
    return np.array(images), labels


def _full(begin: Callable[[], Iterator[Any]], length: int, size: int, form: Form) -> Iterator[Pixels]:
    """Yields an epoch of train batches of `size` images; raises UnreadableImage for a batch of another form."""
    before: Pixels | None = None
    ended = False
    for number, batch in enumerate(islice(begin(), length), 1):
        where = f"train batch {number}:"
        images, labels = _checked(batch, where, form)
        missing = size - len(labels)
        if ended or missing < 0 or (missing and before is None):
            raise UnreadableImage(f"{where} all batches but the last must have {size} images; given {size - missing}")
        if missing and before is not None:
            images, labels = (
                np.concatenate([now, then[:missing]]) for now, then in zip((images, labels), before, strict=True)
            )
            ended = True
        yield images, labels
        before = images, labels


def _checked(batch: Any, where: str, form: Form) -> Pixels:
    try:
        images, labels = _converted(batch, where, form.scale)
        if images.shape[1:] != form.shape or images.dtype != form.dtype:
            given = f"{images.shape[1:]} of {images.dtype}, not {form.shape} of {form.dtype}"
            raise ValueError(f"{where} images must be as those of the first batch; given {given}")
        if labels.shape[1:] != ((form.classes,) if form.several else ()):
            wanted = f"(batch, {form.classes})" if form.several else "(batch,)"
            raise ValueError(f"{where} labels must be {wanted}, as those of the first batches; given {labels.shape}")
        if not form.several and len(labels) and labels.max() >= form.classes:
            raise ValueError(f"{where} label {labels.max()} is beyond the {form.classes} classes; give num_classes")
    except ValueError as error:
        raise UnreadableImage(str(error)) from error
    return images, labels


def _test_split(part: Source | Pair, scale: Scale, shape: tuple[int, int, int]) -> Split | BatchedSplit:
    """Reads the test part: into memory, or of more than `MEMORY_LIMIT` its labels alone."""
    if is_pair(part):
        split = split_of_arrays(*cast(Pair, part), "test", scale)
        if split.images.shape[1:] != shape:
            raise ValueError(f"train and test images must have one shape; given {shape} and {split.images.shape[1:]}")
        return split
    begin = _anew(part, "test")
    labels: list[np.ndarray] = []
    kept: list[np.ndarray] | None = []
    total, dtype = 0, np.dtype(np.uint8)
    for number, batch in enumerate(begin(), 1):
        where = f"test batch {number}:"
        images, numbers = _converted(batch, where, scale)
        dtype = images.dtype if number == 1 else dtype
        if images.shape[1:] != shape or images.dtype != dtype:
            raise ValueError(f"{where} images must be {shape} of {dtype}; given {images.shape[1:]} of {images.dtype}")
        if numbers.shape[1:] != (labels or [numbers])[0].shape[1:]:
            raise ValueError(f"{where} labels must be as those of the first; given shape {numbers.shape}")
        labels.append(numbers)
        total += images.nbytes
        if kept is not None and total <= MEMORY_LIMIT:
            kept.append(images)
        else:
            kept = None
    if not sum(map(len, labels)):
        raise ValueError("test batches must have images; given none")
    every = np.concatenate(labels)
    if kept is not None:
        return Split(np.concatenate(kept), every)
    several = every.ndim == 2
    form = Form(scale, shape, dtype, every.shape[1] if several else int(every.max()) + 1, several)

    def batches() -> Iterator[Pixels]:
        for number, batch in enumerate(begin(), 1):
            yield _checked(batch, f"test batch {number}:", form)

    return BatchedSplit(len(every), every, shape, dtype, batches)
