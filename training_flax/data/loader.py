"""Batches on their way to the devices: indices of examples, and decoded pixels if the data set is streamed."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from training_flax.data.dataset import AnySplit, BatchedSplit, StreamedSplit
from training_flax.data.decode import centre_crop, random_resized_crop
from training_flax.runtime.devices import Devices

SAMPLINGS = ("shuffled", "balanced")
AHEAD = 3  # batches that are being decoded at the same time
UNCHANGED = -1  # in place of an example's epoch: the image is not augmented

T = TypeVar("T")


def batch_indices(step: int, batch_size: int, examples: int, seed: int) -> np.ndarray:
    """Returns the indices of the examples in the batch of `step`, counted from 0: (batch_size,) int32.

    Training reads one endless sequence: all examples in the order of epoch 0, then of epoch 1, and so on; each order
    depends on (seed, epoch) alone. A batch may span two epochs, so every example comes exactly once per epoch and every
    batch is full.
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


class BalancedOrder:
    """An endless sequence of examples in which each class comes equally often.

    Each round has every class of the labels once, in random order. A class's own examples come in turns: each of them
    once, in random order, before any comes again. All follows from the seed and the place in the sequence alone.

    Args:
        labels: (examples,) integers.
        seed: the run's seed.
    """

    def __init__(self, labels: np.ndarray, seed: int):
        self._seed, self._by_class = seed, np.argsort(labels, kind="stable")
        _, self._starts, self._counts = np.unique(labels[self._by_class], return_index=True, return_counts=True)
        self._turns: dict[int, tuple[int, np.ndarray]] = {}  # of each class the newest turn, and its order

    def batch(self, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the examples of the batch of `step`, counted from 0, and the turn of each: (batch_size,) int32."""
        classes = len(self._counts)
        first, last = step * batch_size, (step + 1) * batch_size - 1
        rounds = {number: self._round(number) for number in range(first // classes, last // classes + 1)}
        drawn = [self._draw(int(rounds[p // classes][p % classes]), p // classes) for p in range(first, last + 1)]
        examples, turns = np.array(drawn, np.int32).T
        return examples, turns

    def _round(self, number: int) -> np.ndarray:
        return np.random.default_rng((self._seed, number, 1)).permutation(len(self._counts))

    def _draw(self, which: int, number: int) -> tuple[int, int]:
        """Returns the example of class `which` in round `number`, and its turn."""
        turn, place = divmod(number, int(self._counts[which]))
        known, order = self._turns.get(which, (-1, self._starts))
        if known != turn:
            # The last number tells the draws of examples from those of classes; a 0 at the end would count for nothing.
            order = np.random.default_rng((self._seed, turn, which, 2)).permutation(self._counts[which])
            self._turns[which] = turn, order
        return int(self._by_class[self._starts[which] + order[place]]), turn


class UnreadableImage(ValueError):
    """Raised for a missing or broken image of a streamed split: one line that names the image."""


class Batch(NamedTuple):
    """The arguments of a step, besides its state and a split in the devices' memory."""

    examples: Any  # (batch,) int32: indices in the split
    epochs: Any  # (batch,) int32: the epoch of each example, or UNCHANGED
    stop_signal: Any  # (batch,) int32: this process's request to all processes, see `training_flax.runtime.signals`
    images: Any = None  # (batch, height, width, channels) uint8, if the split is streamed
    labels: Any = None  # (batch,) int32 or (batch, classes) uint8, if the split is streamed


class Reader:
    """Decodes streamed examples to one size, several at once, and returns them in order.

    Args:
        split: the source of the images.
        fit: (image, epoch, index) → image of the split's shape.
        workers: threads. Decoders release Python's global lock while they work.
    """

    def __init__(self, split: StreamedSplit, fit: Callable[[np.ndarray, int, int], np.ndarray], workers: int | None):
        self._split, self._fit = split, fit
        self._pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="reader")

    def start(self, examples: np.ndarray, epochs: np.ndarray) -> list[Future[np.ndarray]]:
        """Starts to decode a batch."""
        return [self._pool.submit(self._read, int(i), int(e)) for i, e in zip(examples, epochs, strict=True)]

    def _read(self, index: int, epoch: int) -> np.ndarray:
        try:
            image = self._split.read(index)
        except ValueError as error:
            raise UnreadableImage(str(error)) from error
        return self._fit(image, epoch, index)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def ahead(count: int, started: Iterable[T]) -> Iterator[T]:
    """Yields the items of `started`, which starts work on each item; `count` items are in progress at a time."""
    pending: deque[T] = deque()
    for item in started:
        pending.append(item)
        if len(pending) == count:
            yield pending.popleft()
    yield from pending


def read_ahead(
    split: AnySplit,
    batches: Iterable[Batch],
    reader: Reader | None,
    result: Callable[[Future[np.ndarray]], np.ndarray] = Future.result,
) -> Iterator[Batch]:
    """Adds images and labels to the batches of a streamed split, and decodes the next batches meanwhile.

    Args:
        split: the split that the batches index.
        batches: without images and labels.
        reader: decodes a streamed split; without a reader, batches are yielded unchanged.
        result: waits for a decoded image and returns it.
    """
    if reader is None or not isinstance(split, StreamedSplit):
        yield from batches
        return
    for batch, images in ahead(AHEAD, ((batch, reader.start(batch.examples, batch.epochs)) for batch in batches)):
        pixels = np.stack([result(image) for image in images])
        yield batch._replace(images=pixels, labels=split.labels[batch.examples])


def with_images(rows: Iterable[Batch], batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[Batch]:
    """Adds the images and labels of a user's batches to `rows`; raises UnreadableImage if there are too few batches."""
    for number, batch in enumerate(rows):
        given = next(batches, None)
        if given is None:
            raise UnreadableImage(f"the iterable of batches ended after {number} batches, before the epoch did")
        yield batch._replace(images=given[0], labels=given[1])


def wait_for(image: Future[np.ndarray], check: Callable[[], None], seconds: float = 0.05) -> np.ndarray:
    """Waits for a decoded image and returns it; calls `check` meanwhile, every few `seconds`."""
    while not image.done():
        check()
        wait([image], timeout=seconds)
    return image.result()


def random_fit(
    size: int,
    seed: int,
    min_area: float,
    ratio: float = 1.0,
    *,
    interpolation: str = "bilinear",
    rule: str = "torchvision",
) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """Makes a function (image, epoch, index) → crop: random by (seed, epoch, index), central if UNCHANGED."""
    unchanged = central_fit(size, ratio, interpolation=interpolation, rule=rule)
    crop = partial(random_resized_crop, interpolation=interpolation)

    def fit(image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        if epoch == UNCHANGED:
            return unchanged(image, epoch, index)
        return crop(image, size, np.random.default_rng((seed, epoch, index)), min_area)

    return fit


def central_fit(
    size: int, ratio: float, *, interpolation: str = "bilinear", rule: str = "torchvision"
) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """Makes a function (image, epoch, index) → `centre_crop`, as in a test."""
    return lambda image, epoch, index: centre_crop(image, size, ratio, interpolation=interpolation, rule=rule)


@dataclass
class Loader:
    """The batches of a range of training steps, on the devices.

    Attributes:
        batch_size: images per step, on all devices together.
        reader: decodes a streamed split.
        stop_signal: returns this process's request to all processes, see `training_flax.runtime.signals`.
        change_until: the first step without augmentation; None augments to the end.
        sampling: "shuffled", see `batch_indices`, or "balanced", see `BalancedOrder`.
        idle: returns True if the devices have nothing to do.
        check: called while the caller waits for images; may raise an error to end the waiting.
        waited: seconds, so far, in which both the caller and the devices waited for images.
    """

    split: AnySplit
    steps: range
    batch_size: int
    seed: int
    devices: Devices
    reader: Reader | None = None
    stop_signal: Callable[[], int] = lambda: 0
    change_until: int | None = None
    sampling: str = "shuffled"
    idle: Callable[[], bool] = lambda: False
    check: Callable[[], None] = lambda: None
    waited: float = 0.0

    def __iter__(self) -> Iterator[Batch]:
        rows_of_steps: Iterable[Batch] = map(self.rows, self.steps)
        if isinstance(self.split, BatchedSplit):
            rows_of_steps = with_images(rows_of_steps, self._timed(self.split.batches()))
        for rows in read_ahead(self.split, rows_of_steps, self.reader, self._result):
            rows = rows._replace(stop_signal=np.full(len(rows.examples), self.stop_signal(), np.int32))
            yield self.devices.put_rows(rows, mapped=True)

    def rows(self, step: int) -> Batch:
        """Returns this process's rows of the batch of `step`, without images."""
        batch, examples = self.batch_size, self.split.examples
        mine, positions = self.devices.rows(batch), np.arange(step * batch, (step + 1) * batch)
        epochs = (positions // examples).astype(np.int32)
        if isinstance(self.split, BatchedSplit):
            indices = (positions % examples).astype(np.int32)  # tells the images of an epoch apart
        elif self.sampling == "balanced":
            # An example may come twice in an epoch: its turn tells the changes of its image apart.
            indices, epochs = self._balanced.batch(step, batch)
        else:
            indices = batch_indices(step, batch, examples, self.seed)
        if self.change_until is not None and step >= self.change_until:
            epochs[:] = UNCHANGED
        return Batch(indices[mine], epochs[mine], np.zeros(0, np.int32))

    @cached_property
    def _balanced(self) -> BalancedOrder:
        return BalancedOrder(self.split.labels, self.seed)

    def _timed(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields the batches, and counts the time that they take while the devices are idle."""
        while True:
            self.check()
            before, idle = time.perf_counter(), self.idle()
            batch = next(batches, None)
            self.waited += (time.perf_counter() - before) * idle
            if batch is None:
                return
            yield batch

    def _result(self, image: "Future[np.ndarray]") -> np.ndarray:
        # Only waiting while the devices are idle costs time, so only that is counted.
        while not image.done():
            self.check()
            before, idle = time.perf_counter(), self.idle()
            wait([image], timeout=0.002)
            self.waited += (time.perf_counter() - before) * idle
        return image.result()
