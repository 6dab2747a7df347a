"""A training run that has been checked, before anything is compiled or written."""

from dataclasses import dataclass
from functools import partial
from itertools import count
from math import ceil, prod
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn

from training_flax.archs import build_model
from training_flax.config import DTYPES, TrainConfig, check, with_defaults
from training_flax.data import Dataset, open_dataset
from training_flax.run_folder import new_run_path


@dataclass(frozen=True)
class Job:
    """A run that can start.

    Attributes:
        config: nothing in it is left open.
        dataset, model: what it names.
        parameters: trainable ones of the model.
        batch_size: images a step.
        total_steps: optimiser steps to take.
        run: the folder to write to; it is not there yet, or empty.
    """

    config: TrainConfig
    dataset: Dataset
    model: nn.Module
    parameters: int
    batch_size: int
    total_steps: int
    run: Path

    @property
    def epochs(self) -> int:
        """Epochs, the last of which may be cut short by the number of steps."""
        return next(epoch for epoch in count(1) if self.last_step(epoch) == self.total_steps)

    def last_step(self, epoch: int) -> int:
        """The number of steps after which `epoch`, counted from 1, has been seen whole, or training ends."""
        return min(ceil(epoch * len(self.dataset.train.labels) / self.batch_size), self.total_steps)

    def epoch_of(self, step: int) -> float:
        """Epochs seen after `step` steps."""
        return step * self.batch_size / len(self.dataset.train.labels)


def prepare(config: TrainConfig) -> Job:
    """Checks all that can be wrong with a run; writes nothing.

    Raises:
        ValueError: the options do not fit each other, the data or the network, or the run's folder is taken.
    """
    check(config)
    run = new_run_path(config)
    dataset = open_dataset(config.data)
    model = build_model(config.arch, num_classes=len(dataset.class_names), dtype=DTYPES[config.dtype])
    image_shape = dataset.train.images.shape[1:]
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    config = with_defaults(config, batch_norm=bool(shapes["batch_stats"]))
    examples, batch_size = len(dataset.train.labels), config.batch_size or 0
    if batch_size > examples:
        raise ValueError(f"batch_size must be at most the {examples} images of {config.data}; given {batch_size}")
    return Job(
        config=config,
        dataset=dataset,
        model=model,
        parameters=sum(prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])),
        batch_size=batch_size,
        total_steps=config.steps or ceil((config.epochs or 0) * examples / batch_size),
        run=run,
    )
