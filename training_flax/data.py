"""Data sets that fit into memory, and the order in which training sees their examples."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from layers_flax import one_of

DATASETS = ("digits",)


class Part(NamedTuple):
    """The train or the test part of a data set."""

    images: np.ndarray  # (examples, height, width, channels) uint8
    labels: np.ndarray  # (examples,) int32, from 0 to classes - 1


@dataclass(frozen=True)
class Dataset:
    """A labelled image data set, whole in memory.

    Attributes:
        name: as `open_dataset` takes it.
        train, test: the parts.
        class_names: names of the labels, in order.
        mean, std: of the train part, channel by channel, with pixels from 0 to 1; networks see (pixel - mean) / std.
    """

    name: str
    train: Part
    test: Part
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def open_dataset(name: str) -> Dataset:
    """The data set called `name`: "digits".

    Raises:
        ValueError: no such data set.
    """
    one_of("data set", name, DATASETS)
    return digits()


def digits() -> Dataset:
    """Handwritten digits: 1,437 train and 360 test images of 32×32×3 pixels, 10 classes.

    The test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), as
    scikit-learn ships it: 1,797 images of 8×8 pixels with 17 grey levels. The last fifth in file order, which were
    written by other people than most of the first, are the test part here. Pixels are repeated to 32×32, and the
    grey channel to three, so that every network of both families takes them.
    """
    from sklearn.datasets import load_digits  # takes a second to import: only who asks for digits waits

    source = load_digits()
    grey = np.rint(source.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey.repeat(4, 1).repeat(4, 2)[..., None], 3, -1)
    labels = source.target.astype(np.int32)
    split = 1437
    train = Part(images[:split], labels[:split])
    pixels = train.images / 255
    return Dataset(
        name="digits",
        train=train,
        test=Part(images[split:], labels[split:]),
        class_names=tuple(str(name) for name in source.target_names),
        mean=tuple(pixels.mean((0, 1, 2)).tolist()),
        std=tuple(pixels.std((0, 1, 2)).tolist()),
    )


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
