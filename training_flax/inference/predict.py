"""Predictions of a network: for arrays, or for files that are decoded while the network runs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from common_flax.backend import computes_in_64_bits, usual_settings
from common_flax.checks import check_images, check_positive
from training_flax.data.dataset import StreamedSplit
from training_flax.data.decode import read_image
from training_flax.data.loader import AHEAD, Reader, ahead
from training_flax.inference.classifier import Classifier, Predictions, image_channels, told
from training_flax.inference.transform import CROP, View
from weights_flax.io.archs import published_size


def predict(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Any,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    top: int | None = None,
    batch_size: int = 64,
    image_size: int | None = None,
    crop: float | None = None,
    interpolation: str = "bilinear",
    crop_rule: str = "torchvision",
    workers: int | None = None,
    multi_label: bool = False,
) -> Predictions:
    """Predicts the most probable classes of images, on all devices, with running statistics and no dropout.

    Images are read batch by batch, so any number fits into memory. Grey images are repeated for a network of three
    channels, and colours become their luma for a network of one.

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}.
        images: an array (batch, height, width, channels) uint8, used without resizing; or paths of image files of any
            size, which threads decode while the network runs.
        mean, std: the network sees (pixel / 255 - mean) / std, channel by channel.
        top: number of classes to return; None is five, or all if there are fewer.
        batch_size: images at a time; changes only the speed, and values within rounding.
        image_size: for files: height and width that the network sees; None is the size that the network was published
            for, 224, or 32 with a stem for small images.
        crop: for files: share of the shorter side that the centre crop keeps; None does not crop images that have the
            size already, and is 0.875 for others.
        interpolation: for files: "bilinear" or "bicubic".
        crop_rule: for files: "torchvision", "timm" or "centred", see `training_flax.data.decode.centre_crop`.
        workers: for files: threads that decode; None is one per core.
        multi_label: an image may have none, one or several classes, each with a probability of its own: sigmoid, not
            softmax.

    Returns:
        `Predictions`: probabilities (images, top), softmax in float32 or wider, and classes (images, top) int32.

    Raises:
        ValueError: one line: an argument is wrong, a file cannot be read, or the network's values are not finite.
    """
    with usual_settings(computes_in_64_bits(getattr(model, "dtype", None), variables)):
        if isinstance(images, np.ndarray | jax.Array):
            check_images(images.shape)
            if images.dtype != np.uint8:
                raise ValueError(f"images must be uint8, pixels from 0 to 255; given {images.dtype}")
            if image_size is not None or crop is not None:
                raise ValueError("image_size and crop are for files; arrays are seen as they are")
            classifier = Classifier(model, variables, mean, std, top, batch_size, len(images), multi_label)
            return _joined(classifier, classifier.in_batches(images))
        paths = [str(path) for path in ([images] if isinstance(images, str | Path) else images)]
        size = published_size(model) if image_size is None else image_size
        seen = dict(interpolation=interpolation, crop_rule=crop_rule)
        channels = image_channels(model, variables)
        view = View((size, size), channels, CROP if crop is None else crop, keep=crop is None, **seen)
        classifier = Classifier(model, variables, mean, std, top, batch_size, len(paths), multi_label)
        return _joined(classifier, (_unbroken(batch) for batch in FileStream(classifier, paths, view, workers)))


class FileBatch(NamedTuple):
    """The results for a batch of files.

    Attributes:
        paths: the files that could be read.
        images: (paths, height, width, channels) uint8, as the network saw them.
        predictions: for these images.
        broken: an error of one line for each other file: it could not be read, or its values are not finite.
    """

    paths: list[str]
    images: np.ndarray
    predictions: Predictions
    broken: list[str]

    @property
    def files(self) -> int:
        """The number of files, broken ones included."""
        return len(self.paths) + len(self.broken)


class FileStream:
    """Predictions of image files, batch by batch, in order and in constant memory.

    Threads decode the next batches while the devices work on a batch and the caller on the batch before.

    Attributes:
        paths: the paths of all files.
        waited_for_images: seconds of waiting for decoded images, so far.
        waited_for_network: seconds of waiting for the devices, so far.
    """

    def __init__(self, classifier: Classifier, paths: Sequence[str], view: View, workers: int | None = None):
        if workers is not None:
            check_positive("workers", workers)
        self.paths, self._classifier, self._view, self._workers = paths, classifier, view, workers
        self.waited_for_images = self.waited_for_network = 0.0

    def __iter__(self) -> Iterator[FileBatch]:
        labels, size = np.zeros(len(self.paths), np.int32), self._classifier.batch_size
        split = StreamedSplit(labels, self._view.shape, lambda index: read_image(self.paths[index], self.paths[index]))
        reader = Reader(split, self._view.fit, self._workers)
        try:
            batches = (np.arange(start, min(start + size, len(labels))) for start in range(0, len(labels), size))
            decoding = ((rows, reader.start(rows, labels[rows])) for rows in batches)
            running = (self._begin(rows, images) for rows, images in ahead(AHEAD, decoding))
            yield from map(self._finish, ahead(2, running))
        finally:
            reader.close()

    def _begin(self, rows: np.ndarray, decoded: "list[Future[np.ndarray]]") -> FileBatch:
        """Starts the network on a batch; its predictions are still on the devices."""
        before = time.perf_counter()
        paths, images, broken = [], [], []
        for path, image in zip([self.paths[row] for row in rows], decoded, strict=True):
            try:
                images.append(image.result())
                paths.append(path)
            except ValueError as error:
                broken.append(str(error) if repr(path) in str(error) else f"{path!r}: {error}")
        self.waited_for_images += time.perf_counter() - before
        if not images:
            return FileBatch(paths, np.zeros((0, *self._view.shape), np.uint8), _none(self._classifier), broken)
        pixels = np.stack(images)
        return FileBatch(paths, pixels, self._classifier.start(pixels), broken)

    def _finish(self, batch: FileBatch) -> FileBatch:
        before = time.perf_counter()
        predictions = told(len(batch.paths), batch.predictions)
        self.waited_for_network += time.perf_counter() - before
        finite = np.isfinite(predictions.probabilities).all(1)
        paths = [batch.paths[row] for row in np.flatnonzero(finite)]
        lost = [f"{batch.paths[row]!r}: the network's numbers are not finite" for row in np.flatnonzero(~finite)]
        kept = Predictions(*(rows[finite] for rows in predictions))
        return FileBatch(paths, batch.images[finite], kept, batch.broken + lost)


def _unbroken(batch: FileBatch) -> Predictions:
    if batch.broken:
        raise ValueError(batch.broken[0])
    return batch.predictions


def _none(classifier: Classifier) -> Predictions:
    """Makes the predictions of no images."""
    return Predictions(np.zeros((0, classifier.top), np.float32), np.zeros((0, classifier.top), np.int32))


def _joined(classifier: Classifier, batches: Iterator[Predictions]) -> Predictions:
    predictions = Predictions(*map(np.concatenate, zip(_none(classifier), *batches, strict=True)))
    lost = np.flatnonzero(~np.isfinite(predictions.probabilities).all(1))
    if len(lost):
        raise ValueError(f"the network's numbers for image {lost[0]} are not finite")
    return predictions
