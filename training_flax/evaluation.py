"""A network on the whole of a data set's test part."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from layers_flax import check_positive
from training_flax.data import Dataset, Part
from training_flax.steps import EvalResult, make_eval_step, normalise


class Evaluation(NamedTuple):
    """Means over all examples, and what the network took each for."""

    loss: float
    accuracy: float
    predictions: np.ndarray  # (examples,) int32


def make_indexed_eval_step(model: nn.Module, dataset: Dataset) -> Callable[[Any, Part, jax.Array], EvalResult]:
    """The evaluation step on examples of a part that lies on the device: (variables, part, indices) → `EvalResult`."""
    step = make_eval_step(model)

    def indexed(variables: Any, part: Any, indices: jax.Array) -> EvalResult:
        images = normalise(part.images[indices], dataset.mean, dataset.std)
        return step(variables, images, part.labels[indices])

    return indexed


def evaluate(model: nn.Module, variables: Mapping[str, Any], dataset: Dataset, batch_size: int = 64) -> Evaluation:
    """Runs `model` over the test part of `dataset`, every example exactly once.

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}.
        dataset: see `open_dataset`.
        batch_size: images at a time; changes nothing but speed.

    Raises:
        ValueError: the batch size is not a positive integer.
    """
    check_positive("batch_size", batch_size)
    step = jax.jit(make_indexed_eval_step(model, dataset))
    part = jax.device_put(dataset.test)
    return evaluate_part(partial(step, jax.device_put(dict(variables))), part, batch_size)


def evaluate_part(step: Callable[[Any, jax.Array], EvalResult], part: Any, batch_size: int) -> Evaluation:
    """Runs the compiled `step` over a part that lies on the device; the last batch is filled up, and cut again."""
    examples = len(part.labels)
    results = []
    for start in range(0, examples, batch_size):
        indices = np.minimum(np.arange(start, start + batch_size), examples - 1).astype(np.int32)
        results.append(step(part, jax.device_put(indices)))
    loss, predictions = (np.concatenate(parts)[:examples] for parts in zip(*jax.device_get(results), strict=True))
    labels = jax.device_get(part.labels)
    return Evaluation(float(loss.mean(dtype=np.float64)), float((predictions == labels).mean()), predictions)
