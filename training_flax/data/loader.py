"""Batches on their way to the devices: which examples, their pixels where they are streamed, and who waited."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from training_flax.data.dataset import Split, StreamedSplit
from training_flax.data.decode import centre_crop, random_resized_crop
from training_flax.data.order import batch_indices
from training_flax.runtime.devices import Devices

AHEAD = 3  # batches that are decoded before they are asked for
UNCHANGED = -1  # in place of the epoch that an image's random changes are drawn from: it is seen as it is


class UnreadableImage(ValueError):
    """An image of a streamed part is missing or broken: one line that names it."""


class Batch(NamedTuple):
    """What a step takes beside its state and a part that lies on the devices."""

    examples: Any  # (batch,) int32: indices in the part
    epochs: Any  # (batch,) int32: the epoch that each example is seen in, or UNCHANGED
    stop_signal: Any  # (batch,) int32: what this process asks of all, see `training_flax.runtime.signals`
    images: Any = None  # (batch, height, width, channels) uint8, where the part is streamed
    labels: Any = None  # (batch,) int32, likewise


class Reader:
    """Decodes streamed examples to one size, several at once, in the order asked for.

    Args:
        part: where the images come from.
        fit: (image, epoch, index) → image of the part's shape.
        workers: threads. Decoders let go of Python's lock while they work.
    """

    def __init__(self, part: StreamedSplit, fit: Callable[[np.ndarray, int, int], np.ndarray], workers: int | None):
        self._part, self._fit = part, fit
        self._pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="reader")

    def start(self, examples: np.ndarray, epochs: np.ndarray) -> list[Future[np.ndarray]]:
        """Begins to decode a batch."""
        return [self._pool.submit(self._read, int(i), int(e)) for i, e in zip(examples, epochs, strict=True)]

    def _read(self, index: int, epoch: int) -> np.ndarray:
        try:
            image = self._part.read(index)
        except ValueError as error:
            raise UnreadableImage(str(error)) from error
        return self._fit(image, epoch, index)

    def close(self) -> None:
        """Lets the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def random_fit(
    size: int, seed: int, min_area: float, ratio: float = 1.0
) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """Random-resized crops, drawn from (seed, epoch, index) alone; of what is seen unchanged, `central_fit`."""
    unchanged = central_fit(size, ratio)

    def fit(image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        if epoch == UNCHANGED:
            return unchanged(image, epoch, index)
        return random_resized_crop(image, size, np.random.default_rng((seed, epoch, index)), min_area)

    return fit


def central_fit(size: int, ratio: float) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """The middle of each image, as in a test."""
    return lambda image, epoch, index: centre_crop(image, size, ratio)


class Loader:
    """The batches of training from one step to another, on the devices.

    Args:
        part: the train part.
        steps: those to take.
        batch_size: images a step, on all devices together.
        seed: the run's.
        devices: where it runs.
        reader: what decodes a streamed part.
        stop_signal: what this process asks of all at a step, see `training_flax.runtime.signals`.
        change_until: the step from which on images are seen unchanged; None is none.

    Attributes:
        waited: seconds that the caller has been kept waiting, so far, while the devices had nothing to do.
    """

    def __init__(
        self,
        part: Split | StreamedSplit,
        steps: range,
        batch_size: int,
        seed: int,
        devices: Devices,
        reader: Reader | None = None,
        stop_signal: Callable[[], int] = lambda: 0,
        change_until: int | None = None,
    ):
        self._part, self._steps, self._batch_size, self._seed = part, steps, batch_size, seed
        self._devices, self._reader, self._stop_signal = devices, reader, stop_signal
        self._change_until = change_until
        self.waited = 0.0
        self.idle: Callable[[], bool] = lambda: False  # whether the devices have nothing to do

    def __iter__(self) -> Iterator[Batch]:
        begun: deque[tuple[Batch, list[Future[np.ndarray]]]] = deque()
        steps = iter(self._steps)
        while True:
            while len(begun) < (AHEAD if self._reader else 1) and (step := next(steps, None)) is not None:
                rows = self.rows(step)
                begun.append((rows, self._reader.start(rows.examples, rows.epochs) if self._reader else []))
            if not begun:
                return
            rows, images = begun.popleft()
            if images:
                pixels = np.stack([self._result(image) for image in images])
                rows = rows._replace(images=pixels, labels=self._part.labels[rows.examples])
            rows = rows._replace(stop_signal=np.full(len(rows.examples), self._stop_signal(), np.int32))
            yield self._devices.put_rows(rows, mapped=True)

    def rows(self, step: int) -> Batch:
        """Which examples of `step` this process provides."""
        batch, examples = self._batch_size, len(self._part.labels)
        mine = self._devices.rows(batch)
        epochs = (np.arange(step * batch, (step + 1) * batch) // examples).astype(np.int32)
        if self._change_until is not None and step >= self._change_until:
            epochs[:] = UNCHANGED
        return Batch(batch_indices(step, batch, examples, self._seed)[mine], epochs[mine], np.zeros(0, np.int32))

    def _result(self, image: "Future[np.ndarray]") -> np.ndarray:
        # Until the devices have done what they have, waiting costs nothing.
        while not image.done():
            before, idle = time.perf_counter(), self.idle()
            _wait(image, 0.002)
            self.waited += (time.perf_counter() - before) * idle
        return image.result()


def _wait(image: "Future[np.ndarray]", seconds: float) -> None:
    try:
        image.exception(timeout=seconds)
    except TimeoutError:
        return
