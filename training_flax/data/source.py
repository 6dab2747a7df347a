"""Data sets from images that are read one by one: held in memory if they fit, else streamed."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common_flax.files import open_regular
from training_flax.data.dataset import Dataset, Split, StreamedSplit
from training_flax.data.decode import centre_crop, read_image, read_size, with_channels
from training_flax.files.image_files import NotAnImage, may_be_image

MEMORY_LIMIT = 2**30  # bytes of pixels per split
HEADER_LIMIT = 200_000  # images whose headers are read; this many take 17 seconds
MOMENTS_LIMIT = 2_000  # streamed images that mean and std are computed from
MEASURED = "measured on the train images"  # the origin of mean and std
CHUNK = 256  # images that a thread reads at a time


class Source(NamedTuple):
    """The labels of a split and functions that read its images. Threads may call them at the same time.

    Attributes:
        labels: (examples,) int32; or (examples, classes) uint8 of 0 and 1, if images may have several classes.
        size: returns the (height, width) of the image at an index, from its header, without decoding the image.
        read: decodes the image at an index: (height, width, channels) uint8, of 1 or 3 channels.
        files: see `sum_of_files`; None if the images come from no files, or from files of this installation.
        bytes: of all files; None as for `files`, or if there are too many to ask for their sizes.
        paths: the file of each image; empty if the images are not files of their own.
        names: of these files within the data set or its part.
        sizes: of these files in bytes; None as for `bytes`.
    """

    labels: np.ndarray
    size: Callable[[int], tuple[int, int]]
    read: Callable[[int], np.ndarray]
    files: str | None = None
    bytes: int | None = None
    paths: Sequence[str] = ()
    names: Sequence[str] = ()
    sizes: Sequence[int] | None = None


class Sources(NamedTuple):
    """The sources of the splits, and the names of the classes: the result of a reader of data sets.

    Attributes:
        train, test: the sources; None for a test split that is still to be drawn, see `held_out`.
        class_names: in the order of the labels.
        notes: what a user should know of the choice of the splits, a line each.
        passed_over: the paths of files that stand among the images, and are none.
        test_part: the name of the test split where it comes from.
        validation: the source of a part for validation; None if there is none.
        drawn: the names of the images of each part, if parts were drawn; empty otherwise.
    """

    train: Source
    test: Source | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    test_part: str = "test"
    validation: Source | None = None
    drawn: Mapping[str, tuple[str, ...]] = {}


def sum_of_files(names: Iterable[str]) -> str:
    """Returns a hash of the names of a split's files, within the split: sixteen hexadecimal digits.

    It tells that files were added, removed or renamed. A broken file may be mended, so their sizes do not count.
    """
    return hashlib.sha256(b"".join(os.fsencode(f"{name}\0") for name in names)).hexdigest()[:16]


def of_files(
    paths: Sequence[str], names: Sequence[str], labels: np.ndarray, sizes: Mapping[str, int] | None = None
) -> Source:
    """Makes the source of image files.

    Args:
        paths: where the files are.
        names: the files' names within the part, for its hash.
        labels: as in `Source`.
        sizes: the files' sizes in bytes when they were listed, by path: another size later is an error. None does not
            look at sizes.
    """
    places = list(paths)

    def read(index: int) -> np.ndarray:
        file = places[index]
        image = read_image(file, file)
        if sizes is not None and (now := _bytes(file)) != sizes[file]:
            raise ValueError(f"{file!r} has changed since it was listed: {sizes[file]:,} bytes then, {now:,} now")
        return image

    known = None if sizes is None else tuple(sizes[file] for file in places)
    return Source(
        labels,
        lambda index: read_size(places[index], places[index]),
        read,
        sum_of_files(names),
        None if known is None else sum(known),
        places,
        tuple(names),
        known,
    )


def size_of_image(file: str, strict: bool) -> int | None:
    """Returns the size of an image in bytes; None for a file that is no image, which `strict` makes an error.

    Raises ValueError, one line that names the file.
    """
    try:
        with open_regular(file) as opened:
            start, size = opened.read(16), os.fstat(opened.fileno()).st_size
    except OSError as error:
        raise ValueError(f"{file!r}: {error.strerror or error}") from None
    try:
        if not may_be_image(start):
            read_size(file, file)
    except NotAnImage:
        if strict:
            raise
        return None
    return size


def _bytes(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError as error:
        raise ValueError(f"{file!r}: {error.strerror}") from None


def sum_of_labels(labels: np.ndarray) -> str:
    """Returns a hash of a split's labels, in order: sixteen hexadecimal digits."""
    return hashlib.sha256(label_bytes(labels)).hexdigest()[:16]


def label_bytes(labels: np.ndarray) -> bytes:
    """Returns labels as bytes for hashes, which are the same on all machines."""
    return labels.astype("<i4").tobytes() if labels.ndim == 1 else repr(labels.shape).encode() + labels.tobytes()


def as_dataset(name: str, sources: Sources, image_size: int | None, default_image_size: int) -> Dataset:
    """Makes the data set called `name`; arguments and errors are those of `open_dataset`."""
    classes = len(sources.class_names)
    parts = {"train": sources.train, "test": sources.test, "validation": sources.validation}
    there = {part: source for part, source in parts.items() if source is not None}
    for source in there.values():
        if source.labels.ndim == 2:
            continue  # of 0 and 1, which the reader makes
        if not len(source.labels) or source.labels.min() < 0 or source.labels.max() >= classes:
            given = f"from {source.labels.min()} to {source.labels.max()}" if len(source.labels) else "none"
            raise ValueError(f"{name!r}: labels must be from 0 to {classes - 1}; given {given}")
    read = [*there.values()]
    opened: Sequence[Split | StreamedSplit] | None = _in_memory(read, image_size)
    splits = dict(zip(there, opened or _streamed(read, image_size, default_image_size), strict=True))
    mean, std = channel_moments(_images(splits["train"]))
    about: dict[str, Any] = {"validation": splits.get("validation"), "drawn": sources.drawn}
    about |= {f"{part}_files": source.files for part, source in there.items()}
    about |= {f"{part}_bytes": source.bytes for part, source in there.items()}
    for part, source in there.items():
        # Labels that come from files may change; others are known by the name of the data set.
        about[f"{part}_labels"] = None if source.files is None else sum_of_labels(source.labels)
    about |= {"notes": sources.notes, "passed_over": sources.passed_over, "test_paths": there["test"].paths}
    about |= {"test_part": sources.test_part, "moments_from": MEASURED}
    return Dataset(name, splits["train"], splits["test"], sources.class_names, mean, std, **about)


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


def _in_memory(sources: Sequence[Source], image_size: int | None) -> list[Split] | None:
    """Returns all splits, or None if the images' sizes differ, are not `image_size`, or need too much memory."""
    shape = sources[0].read(0).shape
    if image_size is not None and shape[:2] != (image_size, image_size):
        return None
    if any(len(source.labels) * prod(shape) > MEMORY_LIMIT for source in sources):
        return None
    splits: list[Split] = []
    for source in sources:
        if (split := _read_all(source, shape)) is None:
            return None
        splits.append(split)
    return splits


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


def _streamed(sources: Sequence[Source], image_size: int | None, default_image_size: int) -> list[StreamedSplit]:
    sizes = set()
    if sum(len(source.labels) for source in sources) <= HEADER_LIMIT:
        # All headers are read even if `image_size` is set: a broken file should fail now and not after an hour.
        sizes = {source.size(index) for source in sources for index in range(len(source.labels))}
    size = image_size or (min(sizes.pop()) if len(sizes) == 1 else default_image_size)

    def streamed(source: Source) -> StreamedSplit:
        return StreamedSplit(source.labels, (size, size, 3), lambda index: with_channels(source.read(index), 3))

    return [streamed(source) for source in sources]


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
