"""Data sets from images that are read one by one: held in memory if they fit, else streamed."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from training_flax.data.dataset import Dataset, Split, StreamedSplit
from training_flax.data.decode import centre_crop, with_channels

MEMORY_LIMIT = 2**30  # bytes of pixels per split
HEADER_LIMIT = 200_000  # images whose headers are read; this many take 17 seconds
MOMENTS_LIMIT = 2_000  # streamed images that mean and std are computed from
CHUNK = 256  # images that a thread reads at a time


class Source(NamedTuple):
    """The labels of a split and functions that read its images. Threads may call them at the same time.

    Attributes:
        labels: (examples,) int32.
        size: returns the (height, width) of the image at an index, from its header, without decoding the image.
        read: decodes the image at an index: (height, width, channels) uint8, of 1 or 3 channels.
        files: see `sum_of_files`; None if the images come from no files, or from files of this installation.
        bytes: of all files; None as for `files`, or if there are too many to ask for their sizes.
    """

    labels: np.ndarray
    size: Callable[[int], tuple[int, int]]
    read: Callable[[int], np.ndarray]
    files: str | None = None
    bytes: int | None = None


class Sources(NamedTuple):
    """The sources of both splits, and the names of the classes: the result of a reader of data sets.

    Attributes:
        train, test: the sources.
        class_names: in the order of the labels.
        notes: what a user should know of the choice of the splits, a line each.
        passed_over: the paths of files that stand among the images, and are none.
    """

    train: Source
    test: Source
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


def sum_of_files(names: Iterable[str]) -> str:
    """Returns a hash of the names of a split's files, within the split: sixteen hexadecimal digits.

    It tells that files were added, removed or renamed. A broken file may be mended, so their sizes do not count.
    """
    return hashlib.sha256(b"".join(os.fsencode(f"{name}\0") for name in names)).hexdigest()[:16]


def _sum_of_labels(source: Source) -> str | None:
    """Returns a hash of the labels of a split that comes from files, which may get others; None for other splits."""
    if source.files is None:
        return None
    return hashlib.sha256(source.labels.astype("<i4").tobytes()).hexdigest()[:16]


def as_dataset(name: str, sources: Sources, image_size: int | None, default_image_size: int) -> Dataset:
    """Makes the data set called `name`; arguments and errors are those of `open_dataset`."""
    splits, classes = (sources.train, sources.test), len(sources.class_names)
    for source in splits:
        if not len(source.labels) or source.labels.min() < 0 or source.labels.max() >= classes:
            given = f"from {source.labels.min()} to {source.labels.max()}" if len(source.labels) else "none"
            raise ValueError(f"{name!r}: labels must be from 0 to {classes - 1}; given {given}")
    train, test = _in_memory(splits, image_size) or _streamed(splits, image_size, default_image_size)
    mean, std = channel_moments(_images(train))
    about: dict[str, Any] = {"train_files": sources.train.files, "test_files": sources.test.files}
    about |= {"train_bytes": sources.train.bytes, "test_bytes": sources.test.bytes}
    about |= {"train_labels": _sum_of_labels(sources.train), "test_labels": _sum_of_labels(sources.test)}
    about |= {"notes": sources.notes, "passed_over": sources.passed_over}
    return Dataset(name, train, test, sources.class_names, mean, std, **about)


def channel_moments(images: Iterable[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std of each channel over groups of images, each (images, height, width, channels) uint8.

    Pixels are scaled to 0 to 1. The std of a constant channel is 1, so that it can be divided by.
    """
    # Histograms of the 256 values give exact results and need no copy of the images in floating point.
    counts = sum(
        np.stack([np.bincount(group[..., channel].ravel(), minlength=256) for channel in range(group.shape[-1])])
        for group in images
    )
    shares = counts / np.sum(counts, 1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
    return tuple(mean.tolist()), tuple(np.where(std == 0, 1, std).tolist())


def _in_memory(sources: tuple[Source, Source], image_size: int | None) -> tuple[Split, Split] | None:
    """Returns both splits, or None if the images' sizes differ, are not `image_size`, or need too much memory."""
    shape = sources[0].read(0).shape
    if image_size is not None and shape[:2] != (image_size, image_size):
        return None
    if any(len(source.labels) * prod(shape) > MEMORY_LIMIT for source in sources):
        return None
    train, test = (_read_all(source, shape) for source in sources)
    return None if train is None or test is None else (train, test)


def _read_all(source: Source, shape: tuple[int, ...]) -> Split | None:
    """Decodes a split into memory; returns None as soon as an image has another shape."""
    examples = len(source.labels)
    images = np.empty((examples, *shape), np.uint8)

    def read_chunk(start: int) -> bool:
        for index in range(start, min(start + CHUNK, examples)):
            image = source.read(index)
            if image.shape != shape:
                return False
            images[index] = image
        return True

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return Split(images, source.labels) if all(threads.map(read_chunk, range(0, examples, CHUNK))) else None


def _streamed(
    sources: tuple[Source, Source], image_size: int | None, default_image_size: int
) -> tuple[StreamedSplit, StreamedSplit]:
    sizes = set()
    if sum(len(source.labels) for source in sources) <= HEADER_LIMIT:
        # All headers are read even if `image_size` is set: a broken file should fail now and not after an hour.
        sizes = {source.size(index) for source in sources for index in range(len(source.labels))}
    size = image_size or (min(sizes.pop()) if len(sizes) == 1 else default_image_size)

    def streamed(source: Source) -> StreamedSplit:
        return StreamedSplit(source.labels, (size, size, 3), lambda index: with_channels(source.read(index), 3))

    return streamed(sources[0]), streamed(sources[1])


def _images(split: Split | StreamedSplit) -> Iterator[np.ndarray]:
    """Yields the images that mean and std are computed from, in small groups."""
    examples = len(split.labels)
    if isinstance(split, Split):
        yield from (split.images[start : start + CHUNK] for start in range(0, examples, CHUNK))
        return
    indices = np.unique(np.linspace(0, examples - 1, min(examples, MOMENTS_LIMIT)).astype(int)).tolist()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        # This rule is older than the one of evaluation; with another one runs that exist would have other moments.
        middle = partial(centre_crop, size=split.image_shape[0], rule="centred")
        yield from threads.map(lambda index: middle(split.read(index))[None], indices)
