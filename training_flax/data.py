"""Labelled images from one flag, and the order in which training sees them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common_flax.checks import check_positive, one_of

DATASETS = ("digits", "fake", "folder", "tfds")
"""What may stand before the first colon of a data set's name."""


class Part(NamedTuple):
    """The train or the test part of a data set, whole in memory."""

    images: np.ndarray  # (examples, height, width, channels) uint8
    labels: np.ndarray  # (examples,) int32, from 0 to classes - 1


@dataclass(frozen=True)
class StreamedPart:
    """The train or the test part of a data set whose images are read when they are asked for.

    Attributes:
        labels: (examples,) int32, from 0 to classes - 1.
        image_shape: (size, size, 3), what networks shall see; the images themselves have sizes of their own.
        read: decodes the image of an index, (height, width, 3) uint8. Threads may call it at the same time. Raises
            ValueError, one line that names the image, where it cannot be read.
    """

    labels: np.ndarray
    image_shape: tuple[int, int, int]
    read: Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """A labelled image data set; both parts are in memory, or both streamed.

    Attributes:
        name: as `open_dataset` takes it.
        train, test: the parts.
        class_names: names of the labels, in order.
        mean, std: of the train part, channel by channel, with pixels from 0 to 1; networks see (pixel - mean) / std.
            Of a streamed part, those of at most 2,000 evenly spaced images, cropped as for a test. The std of a
            channel that never varies is 1.
    """

    name: str
    train: Part | StreamedPart
    test: Part | StreamedPart
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what networks see."""
        return self.train.images.shape[1:] if isinstance(self.train, Part) else self.train.image_shape


def open_dataset(
    name: str, *, data_dir: str | Path | None = None, image_size: int | None = None, default_image_size: int = 32
) -> Dataset:
    """The data set called `name`.

    A data set whose images all have one size, which is `image_size` where that is given, and whose parts have at most
    1 GiB of pixels each, comes whole in memory. Any other is streamed.

    Args:
        name: "digits", "fake:HxWxC:CLASSES[:TRAIN]", "folder:PATH" or "tfds:NAME[:VERSION]"; see docs/data.md.
        data_dir: where prepared data sets of TFDS are; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
        image_size: height and width that networks shall see; None is the images' own size.
        default_image_size: what None means where sizes differ.

    Raises:
        ValueError: there is no such data set, or it cannot be read: one line that says what is wrong and where.
    """
    kind, _, rest = name.partition(":")
    one_of("data set", kind, DATASETS)
    if image_size is not None:
        check_positive("image_size", image_size)
    check_positive("default_image_size", default_image_size)
    if data_dir is not None and kind != "tfds":
        raise ValueError(f"data_dir is where data sets of TFDS are, and {name!r} is none; given {str(data_dir)!r}")
    # Each reader loads libraries that the others do without.
    if kind == "digits":
        from training_flax.digits import digits

        found = digits(rest)
    elif kind == "fake":
        from training_flax.fake import fake

        found = fake(rest)
    elif kind == "folder":
        from training_flax.folder import folder

        found = folder(rest)
    else:
        from training_flax.tfds import prepared

        found = prepared(rest, data_dir)
    from training_flax.sources import as_dataset

    return as_dataset(name, found, image_size, default_image_size)


def batch_indices(step: int, batch_size: int, examples: int, seed: int) -> np.ndarray:
    """Which examples make up the batch of `step`, counted from 0: (batch_size,) int32.

    Training reads one endless sequence: all examples in the order of epoch 0, then of epoch 1, and so on, each order
    drawn from (seed, epoch) alone. Batches cut the sequence without regard to where an epoch ends, so that every
    example comes exactly once an epoch and every batch is full.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = positions // examples, positions % examples
    batch = np.empty(batch_size, np.int32)
    for epoch in np.unique(epochs):
        batch[epochs == epoch] = _epoch_order(seed, int(epoch), examples)[places[epochs == epoch]]
    return batch


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)
