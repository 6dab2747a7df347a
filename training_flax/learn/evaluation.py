"""Evaluation of a network on the whole test split of a data set."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common_flax.backend import computes_in_64_bits, usual_settings
from common_flax.checks import check_positive, one_of
from layers_flax.nn.normalise import normalise
from training_flax.data.dataset import AnySplit, BatchedSplit, Dataset, Split, StreamedSplit
from training_flax.data.decode import CROP_RULES, INTERPOLATIONS
from training_flax.data.loader import Batch, Reader, UnreadableImage, central_fit, read_ahead, wait_for, with_images
from training_flax.learn.multi_label import ClassLogits, average_precision, make_multi_label_eval_step
from training_flax.learn.state import EvalResult
from training_flax.learn.steps import Loss, make_eval_step
from training_flax.runtime.compilation import compiler_options
from training_flax.runtime.devices import Devices


class Evaluation(NamedTuple):
    """Means over all examples, and the predicted class of each, or the predicted classes where there may be several.

    With several classes an example is right if its whole set of classes is; a class is predicted where its probability,
    sigmoid of its logit, is over a half.
    """

    loss: float
    accuracy: float
    predictions: np.ndarray  # (examples,) int32; or (examples, classes) int8 of 0 and 1; -1, which is wrong, for NaN
    probabilities: np.ndarray  # (examples,) of the predicted class, or (examples, classes); float32 or wider
    ranks: np.ndarray  # (examples,) int32: the classes before the true one, so 0 is right, under 5 top-5; or empty
    average_precision: np.ndarray | None = None  # (classes,) of several classes; NaN for one that no example has

    def top(self, count: int) -> float:
        """Returns the share of examples whose true class is among the `count` most probable ones.

        Raises ValueError for examples that may have several classes.
        """
        if self.average_precision is not None:
            raise ValueError("top-k accuracy is of one true class an example; these may have several")
        return float((self.ranks < count).mean())

    @property
    def mean_average_precision(self) -> float | None:
        """The mean over the classes that any example has; NaN if none has one. None without several classes."""
        if self.average_precision is None:
            return None
        known = self.average_precision[~np.isnan(self.average_precision)]
        return float(known.mean()) if len(known) else math.nan

    @property
    def means(self) -> dict[str, float]:
        """The means by name, as metrics.jsonl has them."""
        mean = self.mean_average_precision
        named = {} if mean is None else {"mean_average_precision": mean}
        return {"loss": self.loss, "accuracy": self.accuracy, **named}

    @property
    def score(self) -> float:
        """The number by which the best weights are chosen: mean average precision, if there is one, or accuracy."""
        mean = self.mean_average_precision
        return self.accuracy if mean is None else mean


def make_indexed_eval_step(
    model: nn.Module, dataset: Dataset, dtype: Any = jnp.float32, loss: Loss | None = None
) -> Callable[[Any, Any, Batch], EvalResult | ClassLogits]:
    """Makes the evaluation step on a batch of the test split: (variables, split, batch) → results of each image."""
    step: Callable[..., Any] = (make_multi_label_eval_step if dataset.multi_label else make_eval_step)(model, loss)
    test = dataset.test
    # Test images may have another size than those of training.
    image_shape = test.images.shape[1:] if isinstance(test, Split) else test.image_shape

    def indexed(variables: Any, split: Any, batch: Batch) -> EvalResult | ClassLogits:
        images, labels = pixels_of(split, batch, image_shape)
        return step(variables, normalise(images, dataset.mean, dataset.std, dtype), labels)

    return indexed


def pixels_of(split: Any, batch: Batch, image_shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns the images and labels that a batch holds, or those at its indices in a split on the device."""
    if batch.images is not None:
        return batch.images, batch.labels
    images = split.images[batch.examples]
    return images.reshape(len(images), *image_shape), split.labels[batch.examples]


def in_rows(split: Split) -> Split:
    """Returns a split as it lies on devices: each image is a row, (examples, height · width · channels).

    Of images with axes of their own a TPU would lay out the whole split anew in every step.
    """
    return split._replace(images=split.images.reshape(len(split.images), math.prod(split.images.shape[1:])))


def on_device(split: AnySplit, devices: Devices) -> Any:
    """Puts a split that is in memory on every device, in rows; returns None for any other."""
    return devices.replicate(in_rows(split)) if isinstance(split, Split) else None


def test_reader(
    split: AnySplit,
    ratio: float,
    workers: int | None = None,
    *,
    interpolation: str = "bilinear",
    rule: str = "torchvision",
) -> Reader | None:
    """Makes the reader of a streamed test split, which takes the middle of each image; None for any other."""
    if not isinstance(split, StreamedSplit):
        return None
    return Reader(split, central_fit(split.image_shape[0], ratio, interpolation=interpolation, rule=rule), workers)


def evaluate(
    model: nn.Module,
    variables: Mapping[str, Any],
    dataset: Dataset,
    batch_size: int = 64,
    *,
    crop: float = 0.875,
    interpolation: str = "bilinear",
    crop_rule: str = "torchvision",
) -> Evaluation:
    """Runs `model` over the test split of `dataset`, every example exactly once, on all devices.

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}.
        dataset: see `open_dataset`.
        batch_size: images at a time; changes only the speed.
        crop: share of an image's shorter side that the centre crop keeps, if images have to be resized.
        interpolation, crop_rule: of the centre crop, see `training_flax.data.decode.centre_crop`.

    Raises:
        ValueError: the batch size is not a positive integer, another argument is wrong, or an image cannot be read.
    """
    check_positive("batch_size", batch_size)
    one_of("interpolation", interpolation, INTERPOLATIONS)
    one_of("crop_rule", crop_rule, CROP_RULES)
    with usual_settings(computes_in_64_bits(getattr(model, "dtype", None), variables)):
        devices = Devices()
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(variables))
        step = make_indexed_eval_step(model, dataset, dtype)
        step = jax.jit(step, out_shardings=devices.replicated, compiler_options=compiler_options())
        on_all = partial(step, devices.replicate(jax.device_get(dict(variables))), on_device(dataset.test, devices))
        reader = test_reader(dataset.test, crop, interpolation=interpolation, rule=crop_rule)
        return evaluate_part(on_all, dataset.test, whole_batch(batch_size, devices), devices, reader)


def whole_batch(batch_size: int, devices: Devices) -> int:
    """Rounds `batch_size` up to a multiple of the devices."""
    return -(-batch_size // devices.count) * devices.count


def evaluate_part(
    step: Callable[[Batch], EvalResult | ClassLogits],
    split: AnySplit,
    batch_size: int,
    devices: Devices,
    reader: Reader | None = None,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Runs the compiled `step` over a split. Copies of the last example fill up the last batch, but are not counted.

    Args:
        step: batch → result.
        split: the images and labels.
        batch_size: see `whole_batch`.
        devices: the devices that `step` runs on.
        reader: decodes a streamed split.
        check: called between batches, and while images are decoded; may raise an error to end the evaluation.
    """
    results: list[Any] = []
    result = partial(wait_for, check=check)
    batches = _batches(split.examples, batch_size, devices)
    if isinstance(split, BatchedSplit):
        batches = with_images(batches, _in_order(split, batch_size, devices))
    for batch in read_ahead(split, batches, reader, result):
        check()
        results.append(step(devices.put_rows(batch)))
        if len(results) > 1:
            # Waiting for the previous step frees the pixels of its batch, and lets `check` be heard.
            results[-2] = jax.device_get(results[-2])
    loss, *each = (np.concatenate(parts)[: split.examples] for parts in zip(*jax.device_get(results), strict=True))
    mean = float(loss.mean(dtype=np.float64))
    if split.labels.ndim == 2:
        return _of_several(mean, each[0], split.labels)
    return Evaluation(mean, float((each[0] == split.labels).mean()), *each)


def _of_several(loss: float, logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Returns the results for images that may have several classes, from their logits (images, classes)."""
    predictions = np.where(np.isnan(logits).any(1, keepdims=True), -1, logits > 0).astype(np.int8)
    right = float((predictions == labels).all(1).mean())
    # Logits, unlike probabilities, tell images apart whose classes are almost sure.
    precision = average_precision(labels, logits)
    small = np.exp(-np.abs(logits))  # sigmoid by it neither overflows nor cancels
    probabilities = np.where(logits >= 0, np.ones_like(small), small) / (1 + small)
    return Evaluation(loss, right, predictions, probabilities, np.zeros(0, np.int32), precision)


def _batches(examples: int, batch_size: int, devices: Devices) -> Iterator[Batch]:
    for start in range(0, examples, batch_size):
        indices = np.minimum(np.arange(start, start + batch_size), examples - 1).astype(np.int32)
        rows = indices[devices.rows(batch_size)]
        yield Batch(rows, np.zeros_like(rows), np.zeros_like(rows))


def _in_order(split: BatchedSplit, size: int, devices: Devices) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images and labels in batches of `size`, whatever sizes they come in; the last image fills the last batch.

    Raises UnreadableImage if the labels are not those that the iterable gave first: predictions belong to images.
    """
    given, held, start = split.batches(), [np.zeros((0, *split.image_shape), split.dtype)], 0
    while start < split.examples:
        stop = min(start + size, split.examples)
        while start + sum(map(len, held)) < stop and (batch := next(given, None)) is not None:
            seen = stop_of = start + sum(map(len, held))
            stop_of += len(batch[1])
            if not np.array_equal(batch[1], split.labels[seen:stop_of]):
                raise UnreadableImage("the test batches come in another order than at first; do not shuffle them")
            held.append(batch[0])
        images = np.concatenate(held)
        if start + len(images) < stop:
            return  # too few images, which the caller says
        images, held = images[: stop - start], [images[stop - start :]]
        rows = np.minimum(np.arange(size), len(images) - 1)
        yield images[rows], split.labels[start:stop][rows]
        start = stop
