"""Labelled images: what a data set and its parts are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """The train or the test part of a data set, whole in memory."""

    images: np.ndarray  # (examples, height, width, channels) uint8
    labels: np.ndarray  # (examples,) int32, from 0 to classes - 1


@dataclass(frozen=True)
class StreamedSplit:
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
    train: Split | StreamedSplit
    test: Split | StreamedSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what networks see."""
        return self.train.images.shape[1:] if isinstance(self.train, Split) else self.train.image_shape
