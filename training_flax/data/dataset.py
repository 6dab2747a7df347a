"""The types of labelled images: a data set and its splits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """The train or test split of a data set, whole in memory."""

    images: np.ndarray  # (examples, height, width, channels) uint8
    labels: np.ndarray  # (examples,) int32, from 0 to classes - 1


@dataclass(frozen=True)
class StreamedSplit:
    """The train or test split of a data set whose images are decoded on demand.

    Attributes:
        labels: (examples,) int32, from 0 to classes - 1.
        image_shape: (size, size, 3), the shape that networks see; the images themselves have any size.
        read: decodes the image at an index, (height, width, 3) uint8. Threads may call it at the same time. Raises
            ValueError, one line that names the image, if it cannot be read.
    """

    labels: np.ndarray
    image_shape: tuple[int, int, int]
    read: Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """A labelled image data set; both splits are in memory, or both are streamed.

    Attributes:
        name: the name for `open_dataset`.
        train, test: the splits.
        class_names: names of the labels, in order.
        mean, std: of the train split, channel by channel, for pixels from 0 to 1; networks see (pixel - mean) / std.
            A streamed split is sampled: at most 2,000 evenly spaced images, centre-cropped as for a test. The std of a
            constant channel is 1.
        train_files, test_files: hashes of the names of the splits' files; None if there are none.
        train_bytes, test_bytes: the bytes of the splits' files; None if there are none, or too many to ask for.
        train_labels, test_labels: hashes of the splits' labels, in order; None where the images come from no files.
        notes: what a user should know of the choice of the splits, a line each.
        passed_over: the paths of files that stand among the images, and are none.
    """

    name: str
    train: Split | StreamedSplit
    test: Split | StreamedSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_files: str | None = None
    test_files: str | None = None
    train_bytes: int | None = None
    test_bytes: int | None = None
    train_labels: str | None = None
    test_labels: str | None = None
    notes: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (height, width, channels) of the images that networks see."""
        return self.train.images.shape[1:] if isinstance(self.train, Split) else self.train.image_shape
