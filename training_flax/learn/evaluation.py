"""A network on the whole of a data set's test part."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common_flax.checks import check_positive
from training_flax.data.dataset import Dataset, Split, StreamedSplit
from training_flax.data.loader import AHEAD, Batch, Reader, central_fit
from training_flax.learn.state import EvalResult
from training_flax.learn.steps import make_eval_step, normalise
from training_flax.runtime.compilation import compiler_options
from training_flax.runtime.devices import Devices


class Evaluation(NamedTuple):
    """Means over all examples, and what the network took each for."""

    loss: float
    accuracy: float
    predictions: np.ndarray  # (examples,) int32


def make_indexed_eval_step(
    model: nn.Module, dataset: Dataset, dtype: Any = jnp.float32
) -> Callable[[Any, Any, Batch], EvalResult]:
    """The evaluation step on a batch of the test part: (variables, part, batch) → `EvalResult`."""
    step = make_eval_step(model)

    def indexed(variables: Any, part: Any, batch: Batch) -> EvalResult:
        images, labels = pixels_of(part, batch)
        return step(variables, normalise(images, dataset.mean, dataset.std, dtype), labels)

    return indexed


def pixels_of(part: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Images and labels of a batch: its own, or those that it names in a part that lies on the device."""
    if batch.images is not None:
        return batch.images, batch.labels
    return part.images[batch.examples], part.labels[batch.examples]


def on_device(part: Split | StreamedSplit, devices: Devices) -> Any:
    """A part in memory on every device; None of one that is streamed."""
    return devices.replicate(part) if isinstance(part, Split) else None


def test_reader(part: Split | StreamedSplit, ratio: float, workers: int | None = None) -> Reader | None:
    """What decodes a streamed test part: the middle of each image."""
    if isinstance(part, Split):
        return None
    return Reader(part, central_fit(part.image_shape[0], ratio), workers)


def evaluate(
    model: nn.Module,
    variables: Mapping[str, Any],
    dataset: Dataset,
    batch_size: int = 64,
    *,
    crop: float = 0.875,
) -> Evaluation:
    """Runs `model` over the test part of `dataset`, every example exactly once, on all devices.

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}.
        dataset: see `open_dataset`.
        batch_size: images at a time; changes nothing but speed.
        crop: share of an image's shorter side that is cut out of its centre, where images have to be resized.

    Raises:
        ValueError: the batch size is not a positive integer, or an image cannot be read.
    """
    check_positive("batch_size", batch_size)
    devices = Devices()
    step = jax.jit(
        make_indexed_eval_step(model, dataset),
        out_shardings=devices.replicated,
        compiler_options=compiler_options(),
    )
    on_all = partial(step, devices.replicate(jax.device_get(dict(variables))), on_device(dataset.test, devices))
    reader = test_reader(dataset.test, crop)
    return evaluate_part(on_all, dataset.test, whole_batch(batch_size, devices), devices, reader)


def whole_batch(batch_size: int, devices: Devices) -> int:
    """`batch_size`, rounded up to a multiple of the devices."""
    return -(-batch_size // devices.count) * devices.count


def evaluate_part(
    step: Callable[[Batch], EvalResult],
    part: Split | StreamedSplit,
    batch_size: int,
    devices: Devices,
    reader: Reader | None = None,
) -> Evaluation:
    """Runs the compiled `step` over a part; the last batch is filled up with its last example, and cut again."""
    results: list[Any] = []
    for batch in _batches(part, batch_size, devices, reader):
        results.append(step(batch))
        if reader and len(results) > 1:
            # Pixels are let go of as soon as they have been seen.
            results[-2] = jax.device_get(results[-2])
    examples = len(part.labels)
    loss, predictions = (np.concatenate(parts)[:examples] for parts in zip(*jax.device_get(results), strict=True))
    return Evaluation(float(loss.mean(dtype=np.float64)), float((predictions == part.labels).mean()), predictions)


def _batches(part: Split | StreamedSplit, batch_size: int, devices: Devices, reader: Reader | None) -> Iterator[Batch]:
    last, mine = len(part.labels) - 1, devices.rows(batch_size)
    rows = [
        np.minimum(np.arange(start, start + batch_size), last).astype(np.int32)[mine]
        for start in range(0, last + 1, batch_size)
    ]
    begun = [reader.start(examples, np.zeros_like(examples)) for examples in rows[:AHEAD]] if reader else []
    for number, examples in enumerate(rows):
        zeros = np.zeros_like(examples)
        batch = Batch(examples, zeros, zeros)
        if reader:
            pixels = np.stack([image.result() for image in begun.pop(0)])
            batch = batch._replace(images=pixels, labels=part.labels[examples])
            begun += [reader.start(later, np.zeros_like(later)) for later in rows[number + AHEAD : number + AHEAD + 1]]
        yield devices.put_rows(batch)
