"""From images that are read one by one to a data set: whole in memory where it fits, else streamed."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import NamedTuple

import numpy as np

from training_flax.data.dataset import Dataset, Split, StreamedSplit
from training_flax.data.decode import centre_crop

MEMORY_LIMIT = 2**30  # bytes of pixels a part
HEADER_LIMIT = 200_000  # images whose headers are looked at: 17 seconds of them
MOMENTS_LIMIT = 2_000  # streamed images that mean and std are taken over
CHUNK = 256  # images a thread takes at a time


class Source(NamedTuple):
    """One part of a data set, as a reader finds it. Threads may call its functions at the same time.

    Attributes:
        labels: (examples,) int32.
        size: the (height, width) of the image of an index, as its header says, without decoding it.
        read: decodes the image of an index: (height, width, channels) uint8, of 1 or 3 channels.
    """

    labels: np.ndarray
    size: Callable[[int], tuple[int, int]]
    read: Callable[[int], np.ndarray]


class Found(NamedTuple):
    """What a reader finds under a name."""

    train: Source
    test: Source
    class_names: tuple[str, ...]


def as_dataset(name: str, found: Found, image_size: int | None, default_image_size: int) -> Dataset:
    """The data set called `name`; arguments and errors are those of `open_dataset`."""
    sources = (found.train, found.test)
    train, test = _in_memory(sources, image_size) or _streamed(sources, image_size, default_image_size)
    mean, std = channel_moments(_images(train))
    return Dataset(name, train, test, found.class_names, mean, std)


def channel_moments(images: Iterable[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel over groups of images, (images, height, width, channels) uint8 each.

    Pixels count as from 0 to 1. The std of a channel that never varies is 1, so that it can be divided by.
    """
    # How often each of the 256 values occurs says all, exactly, and needs no copy of the images in floats.
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
    """Both parts, or None where sizes differ, are not what is wanted, or fill too much memory."""
    shape = sources[0].read(0).shape
    if image_size is not None and shape[:2] != (image_size, image_size):
        return None
    if any(len(source.labels) * prod(shape) > MEMORY_LIMIT for source in sources):
        return None
    train, test = (_read_all(source, shape) for source in sources)
    return None if train is None or test is None else (train, test)


def _read_all(source: Source, shape: tuple[int, ...]) -> Split | None:
    """Decodes a part into memory; None as soon as an image has another shape."""
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
        # All of them, even where the size is given: a file that is no image is better found now than in an hour.
        sizes = {source.size(index) for source in sources for index in range(len(source.labels))}
    own = min(sizes.pop()) if len(sizes) == 1 else default_image_size
    size = image_size or own
    train, test = (StreamedSplit(source.labels, (size, size, 3), _in_colour(source.read)) for source in sources)
    return train, test


def _in_colour(read: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
    def read_in_colour(index: int) -> np.ndarray:
        image = read(index)
        return image if image.shape[-1] == 3 else image.repeat(3, -1)

    return read_in_colour


def _images(part: Split | StreamedSplit) -> Iterator[np.ndarray]:
    """The images that a data set's mean and std are taken over, in groups that fit into memory as integers."""
    examples = len(part.labels)
    if isinstance(part, Split):
        yield from (part.images[start : start + CHUNK] for start in range(0, examples, CHUNK))
        return
    indices = np.unique(np.linspace(0, examples - 1, min(examples, MOMENTS_LIMIT)).astype(int)).tolist()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(lambda index: centre_crop(part.read(index), part.image_shape[0])[None], indices)
