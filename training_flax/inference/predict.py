"""What a network takes images for: arrays, or files that are decoded while it works."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from common_flax.checks import check_images, check_positive
from training_flax.data.dataset import StreamedSplit
from training_flax.data.decode import read_image
from training_flax.data.loader import AHEAD, Reader
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
    workers: int | None = None,
) -> Predictions:
    """The likeliest classes of images, on all devices, with running statistics and no dropout.

    Nothing but the predictions is kept of the images, however many there are. Images in one channel are repeated for a
    network that sees three, and colours become their luma for one that sees one.

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}.
        images: an array (batch, height, width, channels) uint8, which is seen as it is; or paths of image files of any
            size, which are decoded by threads while the network works.
        mean, std: the network sees (pixel / 255 - mean) / std, channel by channel.
        top: how many classes to give; None is five, or all of fewer.
        batch_size: images at a time; changes nothing but speed, and numbers by rounding.
        image_size: of files: pixels of a side that the network sees; None is what it was published for, 224, or 32
            with a stem for small images.
        crop: of files: the share of the shorter side that is cut out of the centre; None leaves images whole that have
            the size already, and is 0.875 for others.
        workers: of files: threads that decode; None is one for each core.

    Returns:
        `Predictions`: probabilities (images, top), softmax in float32 or wider, and classes (images, top) int32.

    Raises:
        ValueError: one line: an argument cannot be, a file cannot be read, or the network's numbers are not finite.
    """
    if isinstance(images, np.ndarray | jax.Array):
        check_images(images.shape)
        if images.dtype != np.uint8:
            raise ValueError(f"images must be uint8, pixels from 0 to 255; given {images.dtype}")
        if image_size is not None or crop is not None:
            raise ValueError("image_size and crop are for files; arrays are seen as they are")
        classifier = Classifier(model, variables, mean, std, top, batch_size, len(images))
        return _joined(classifier, classifier.in_batches(images))
    paths = [str(path) for path in ([images] if isinstance(images, str | Path) else images)]
    size = published_size(model) if image_size is None else image_size
    view = View((size, size), image_channels(model, variables), CROP if crop is None else crop, keep=crop is None)
    classifier = Classifier(model, variables, mean, std, top, batch_size, len(paths))
    return _joined(classifier, (_unbroken(batch) for batch in FileStream(classifier, paths, view, workers)))


class FileBatch(NamedTuple):
    """What became of some files.

    Attributes:
        paths: those that could be read.
        images: (paths, height, width, channels) uint8, what the network has seen of them.
        predictions: of these.
        broken: a line for each file that could not be read, or got numbers that are not finite, which names it.
    """

    paths: list[str]
    images: np.ndarray
    predictions: Predictions
    broken: list[str]

    @property
    def files(self) -> int:
        """How many files it was."""
        return len(self.paths) + len(self.broken)


class FileStream:
    """Predictions of image files, batch by batch, in their order and in constant memory.

    Threads decode the next batches while the devices work on one and the caller on the one before.

    Attributes:
        paths: all of them.
        waited_for_images: seconds for which there was nothing to give to the devices, so far.
        waited_for_network: seconds for which the devices were waited for.
    """

    def __init__(self, classifier: Classifier, paths: Sequence[str], view: View, workers: int | None = None):
        if workers is not None:
            check_positive("workers", workers)
        self.paths, self._classifier, self._view, self._workers = paths, classifier, view, workers
        self.waited_for_images = self.waited_for_network = 0.0

    def __iter__(self) -> Iterator[FileBatch]:
        labels = np.zeros(len(self.paths), np.int32)
        part = StreamedSplit(labels, self._view.shape, lambda index: read_image(self.paths[index], self.paths[index]))
        reader = Reader(part, self._view.fit, self._workers)
        try:
            yield from self._batches(reader)
        finally:
            reader.close()

    def _batches(self, reader: Reader) -> Iterator[FileBatch]:
        size = self._classifier.batch_size
        starts = iter(range(0, len(self.paths), size))
        decoding: deque[tuple[int, list[Future[np.ndarray]]]] = deque()
        running: FileBatch | None = None
        while True:
            while len(decoding) < AHEAD and (start := next(starts, None)) is not None:
                rows = np.arange(start, min(start + size, len(self.paths)))
                decoding.append((start, reader.start(rows, np.zeros_like(rows))))
            begun = self._begin(*decoding.popleft()) if decoding else None
            if running is not None:
                yield self._finish(running)
            if begun is None:
                return
            running = begun

    def _begin(self, start: int, decoded: "list[Future[np.ndarray]]") -> FileBatch:
        """Gives a batch to the devices; its predictions are theirs yet."""
        before = time.perf_counter()
        paths, images, broken = [], [], []
        for path, image in zip(self.paths[start : start + len(decoded)], decoded, strict=True):
            try:
                images.append(image.result())
                paths.append(path)
            except ValueError as error:
                broken.append(str(error) if repr(path) in str(error) else f"{path!r}: {error}")
        self.waited_for_images += time.perf_counter() - before
        shape, top = self._view.shape, self._classifier.top
        if not images:
            nothing = Predictions(np.zeros((0, top), np.float32), np.zeros((0, top), np.int32))
            return FileBatch(paths, np.zeros((0, *shape), np.uint8), nothing, broken)
        pixels = np.stack(images)
        return FileBatch(paths, pixels, self._classifier.start(pixels), broken)

    def _finish(self, batch: FileBatch) -> FileBatch:
        before = time.perf_counter()
        predictions = told(len(batch.paths), batch.predictions)
        self.waited_for_network += time.perf_counter() - before
        fine = np.isfinite(predictions.probabilities).all(1)
        lost = [
            f"{path!r}: the network's numbers are not finite"
            for path, ok in zip(batch.paths, fine, strict=True)
            if not ok
        ]
        return FileBatch(
            [path for path, ok in zip(batch.paths, fine, strict=True) if ok],
            batch.images[fine],
            Predictions(*(rows[fine] for rows in predictions)),
            batch.broken + lost,
        )


def _unbroken(batch: FileBatch) -> Predictions:
    if batch.broken:
        raise ValueError(batch.broken[0])
    return batch.predictions


def _joined(classifier: Classifier, batches: Iterator[Predictions]) -> Predictions:
    found = list(batches)
    if not found:
        return Predictions(np.zeros((0, classifier.top), np.float32), np.zeros((0, classifier.top), np.int32))
    predictions = Predictions(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    lost = np.flatnonzero(~np.isfinite(predictions.probabilities).all(1))
    if len(lost):
        raise ValueError(f"the network's numbers for image {lost[0]} are not finite")
    return predictions
