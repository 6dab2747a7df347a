"""The types of labelled images: a data set and its splits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from common_flax.checks import one_of


class Split(NamedTuple):
    """A split of a data set, whole in memory."""

    images: np.ndarray  # (examples, height, width, channels) uint8, or floating point of the same scale, 0 to 255
    labels: np.ndarray  # (examples,) int32, from 0 to classes - 1; or (examples, classes) uint8 of 0 and 1

    @property
    def examples(self) -> int:
        """The number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class StreamedSplit:
    """A split of a data set whose images are decoded on demand.

    Attributes:
        labels: (examples,) int32, from 0 to classes - 1; or (examples, classes) uint8 of 0 and 1.
        image_shape: (size, size, 3), the shape that networks see; the images themselves have any size.
        read: decodes the image at an index, (height, width, 3) uint8. Threads may call it at the same time. Raises
            ValueError, one line that names the image, if it cannot be read.
    """

    labels: np.ndarray
    image_shape: tuple[int, int, int]
    read: Callable[[int], np.ndarray]

    @property
    def examples(self) -> int:
        """The number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class BatchedSplit:
    """A split that comes in batches from an iterable of the user's, in the order of the iterable.

    Attributes:
        examples: the number of images in an epoch.
        labels: (examples,) int32, or (examples, classes) uint8, of a test split; of a train split, whose labels come
            with its images, an empty array of this form.
        image_shape: (height, width, channels).
        dtype: the type of the images: uint8, or floating point of the same scale, 0 to 255.
        batches: begins the iterable anew, and yields images (batch, *image_shape) and labels, in the form of `labels`.
    """

    examples: int
    labels: np.ndarray
    image_shape: tuple[int, int, int]
    dtype: np.dtype
    batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


AnySplit = Split | StreamedSplit | BatchedSplit


@dataclass(frozen=True)
class Dataset:
    """A labelled image data set; all splits are in memory, or all are streamed, but for those of a user's own.

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
        validation: a split for choices that the test split must not see, such as of the best weights; None if the test
            split does that too.
        validation_files, validation_bytes, validation_labels: as those of the other splits.
        drawn: the names of the images' files in each part, "train", "test" and "validation", if parts were drawn.
        train_sum, test_sum, validation_sum: hashes of pixels and labels of arrays that were passed to `fit`; else None.
        pixels: the images are pixels; False for values of another scale, which are normalised as the user says.
        notes: what a user should know of the choice of the splits, a line each.
        passed_over: the paths of files that stand among the images, and are none.
        test_part: the name of the test split where it comes from: of a folder, or as TFDS spells it.
        test_paths: the file of each test image; empty if the images are not files of their own.
        moments_from: the origin of mean and std in words.
    """

    name: str
    train: AnySplit
    test: AnySplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_files: str | None = None
    test_files: str | None = None
    train_bytes: int | None = None
    test_bytes: int | None = None
    train_labels: str | None = None
    test_labels: str | None = None
    validation: AnySplit | None = None
    validation_files: str | None = None
    validation_bytes: int | None = None
    validation_labels: str | None = None
    drawn: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    train_sum: str | None = None
    test_sum: str | None = None
    validation_sum: str | None = None
    pixels: bool = True
    notes: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    test_part: str = "test"
    test_paths: Sequence[str] = ()
    moments_from: str = "the data set's own"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (height, width, channels) of the images that networks see."""
        return self.train.images.shape[1:] if isinstance(self.train, Split) else self.train.image_shape

    @property
    def multi_label(self) -> bool:
        """True if an image may have none, one or several of the classes: labels are (examples, classes) of 0 and 1."""
        return self.test.labels.ndim == 2

    def named(self, label: np.ndarray, between: str = "|") -> str:
        """Returns the name of a label's class; of a multi-label one, of 0 and 1, those of its classes."""
        if not label.ndim:
            return self.class_names[int(label)]
        return between.join(self.class_names[place] for place in np.flatnonzero(label == 1))

    @property
    def watched(self) -> tuple[str, AnySplit]:
        """The name and the images of the part that is looked at during training: for validation, or else for tests."""
        return ("test", self.test) if self.validation is None else ("validation", self.validation)

    def arrays(self, part: Literal["train", "test", "validation"]) -> Split:
        """Returns a split that is in memory, for its images and labels.

        Raises ValueError if there is no split of this name, or it is not in memory.
        """
        there: dict[str, AnySplit] = {"train": self.train, "test": self.test}
        there |= {} if self.validation is None else {"validation": self.validation}
        one_of("split", part, there)
        split = there[part]
        if not isinstance(split, Split):
            raise ValueError(f"the {part} split of {self.name!r} is not in memory; its images are read one by one")
        return split
