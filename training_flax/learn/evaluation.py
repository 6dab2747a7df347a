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
from training_flax.data.dataset import Dataset, Split, StreamedSplit
from training_flax.data.decode import CROP_RULES, INTERPOLATIONS
from training_flax.data.loader import Batch, Reader, central_fit, read_ahead, wait_for
from training_flax.learn.state import EvalResult
from training_flax.learn.steps import make_eval_step, normalise
from training_flax.runtime.compilation import compiler_options
from training_flax.runtime.devices import Devices


class Evaluation(NamedTuple):
    """Means over all examples, and the predicted class of each."""

    loss: float
    accuracy: float
    predictions: np.ndarray  # (examples,) int32; -1, which is wrong, where a logit is NaN


def make_indexed_eval_step(
    model: nn.Module, dataset: Dataset, dtype: Any = jnp.float32
) -> Callable[[Any, Any, Batch], EvalResult]:
    """Makes the evaluation step on a batch of the test split: (variables, split, batch) → `EvalResult`."""
    step, test = make_eval_step(model), dataset.test
    # Test images may have another size than those of training.
    image_shape = test.images.shape[1:] if isinstance(test, Split) else test.image_shape

    def indexed(variables: Any, split: Any, batch: Batch) -> EvalResult:
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


def on_device(split: Split | StreamedSplit, devices: Devices) -> Any:
    """Puts a split that is in memory on every device, in rows; returns None for a streamed one."""
    return devices.replicate(in_rows(split)) if isinstance(split, Split) else None


def test_reader(
    split: Split | StreamedSplit,
    ratio: float,
    workers: int | None = None,
    *,
    interpolation: str = "bilinear",
    rule: str = "torchvision",
) -> Reader | None:
    """Makes the reader of a streamed test split, which takes the middle of each image; None for a split in memory."""
    if isinstance(split, Split):
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
    step: Callable[[Batch], EvalResult],
    split: Split | StreamedSplit,
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
    for batch in read_ahead(split, _batches(len(split.labels), batch_size, devices), reader, result):
        check()
        results.append(step(devices.put_rows(batch)))
        if len(results) > 1:
            # Waiting for the previous step frees the pixels of its batch, and lets `check` be heard.
            results[-2] = jax.device_get(results[-2])
    examples = len(split.labels)
    loss, predictions = (np.concatenate(parts)[:examples] for parts in zip(*jax.device_get(results), strict=True))
    return Evaluation(float(loss.mean(dtype=np.float64)), float((predictions == split.labels).mean()), predictions)


def _batches(examples: int, batch_size: int, devices: Devices) -> Iterator[Batch]:
    for start in range(0, examples, batch_size):
        indices = np.minimum(np.arange(start, start + batch_size), examples - 1).astype(np.int32)
        rows = indices[devices.rows(batch_size)]
        yield Batch(rows, np.zeros_like(rows), np.zeros_like(rows))
