"""A training run that has been checked, before anything is compiled or written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from math import ceil, gcd, prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common_flax.optional import library
from layers_flax import variables_by_shape
from resnet_flax import stack_blocks
from training_flax.augment.registry import Augmentation, parse_augmentations
from training_flax.config.config import MODEL, TrainConfig, build_network, reaching
from training_flax.config.recipes import with_recipe
from training_flax.data.dataset import Dataset, Split, StreamedSplit
from training_flax.data.open import open_dataset
from training_flax.learn.freeze import check_patterns
from training_flax.learn.starting_weights import normalisation, starting_weights
from training_flax.run.folder import checkpoint_steps, run_path
from training_flax.runtime.devices import Devices
from weights_flax.io.archs import ARCHS, constructor_options, published_size

SHOWN = 36  # images in batch.png
MOST_STEPS = 10**8  # years of them; the rate of each is kept in memory, and 32 bits count them


@dataclass(frozen=True)
class Job:
    """A run that can start, or go on.

    Attributes:
        config: nothing in it is left open that a recipe has.
        dataset: what it names.
        model, eval_model: the network as the training step has it, on `devices`, and as one program has it.
        devices: where it runs.
        parameters: trainable ones of the model.
        batch_size: images a step, on all devices together.
        total_steps: optimiser steps to take.
        run: the folder to write to: new, empty, or of the same run.
    """

    config: TrainConfig
    dataset: Dataset
    model: nn.Module
    eval_model: nn.Module
    devices: Devices
    parameters: int
    batch_size: int
    total_steps: int
    run: Path

    @property
    def stacked(self) -> bool:
        """Whether the state has the blocks of a stage as one, see `arranged`."""
        rolled = getattr(self.model, "scan", False) and not getattr(self.model, "drop_path", 0)
        # These look at parameters block by block.
        return rolled and not self.config.freeze and self.config.optimiser != "lamb"

    def arranged(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """A network's variables as the run's state has them: of a network whose blocks run as a loop, stacked.

        A thousand arrays fewer make a step of ResNet-1202 compile in a tenth of the time.
        """
        return jax.jit(stack_blocks)(variables) if self.stacked else variables

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

    @property
    def change_until(self) -> int | None:
        """The step from which on images are no longer changed; None where they are to the end."""
        share = self.config.augment_until or 1.0
        return None if share == 1 else ceil(share * self.total_steps)

    @property
    def image_dtype(self) -> Any:
        """Type of the normalised images that the network is given."""
        return jnp.float64 if self.config.dtype == "float64" else jnp.float32

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """The random changes that are made on the devices. Streamed images come cropped at random already."""
        names = self.config.augment or ()
        if self.min_area is not None:
            names = tuple(name for name in names if not name.startswith("random-resized-crop"))
        return parse_augmentations(names)

    @property
    def min_area(self) -> float | None:
        """Least area of the random crops that are made while images are decoded; None where there are none."""
        given = [name for name in self.config.augment or () if name.startswith("random-resized-crop")]
        if not given or not isinstance(self.dataset.train, StreamedSplit):
            return None
        return float(given[0].partition(":")[2] or 0.08)

    @property
    def shown(self) -> int:
        """Images of the first batch that are drawn: up to `SHOWN`, an even number on each device."""
        each = 2 * self.devices.count
        return min(max(SHOWN // each, 1) * each, self.batch_size) if self.batch_size % 2 == 0 else self.batch_size


def plan(config: TrainConfig, *, extend: bool = False) -> Job:
    """Checks all that can be wrong with a run; writes nothing.

    Args:
        config: the options; what it leaves open is its recipe's.
        extend: a run that is there already may go on for more epochs or steps than it was started with.

    Raises:
        ValueError: the options do not fit each other, the data, the devices or the network, the weights are those of
            another network, or the run's folder is that of another run.
    """
    named = with_recipe(config)
    _check_libraries(config)
    if config.dtype == "float64" and not jax.config.values["jax_enable_x64"]:
        raise ValueError("dtype 'float64' needs jax.config.update('jax_enable_x64', True)")
    devices = Devices(config.parallel, config.batch_norm, config.shard_state)
    dataset = open_dataset(
        named.data,
        data_dir=named.data_dir,
        image_size=named.image_size,
        default_image_size=published_size(ARCHS[named.arch]()),
    )
    if config.test_image_size not in (None, dataset.image_shape[0]) and isinstance(dataset.test, Split):
        shown = "×".join(map(str, dataset.image_shape[:2]))
        raise ValueError(
            f"test_image_size is for images that are resized; those of {config.data} all are {shown}; "
            f"given {config.test_image_size}"
        )
    if named.test_image_size and isinstance(dataset.test, StreamedSplit):
        side = named.test_image_size
        dataset = replace(dataset, test=replace(dataset.test, image_shape=(side, side, dataset.image_shape[2])))
    classes = len(dataset.class_names)
    if config.num_classes not in (None, classes):
        raise ValueError(f"num_classes must be the {classes} of {config.data}; given {config.num_classes}")
    if moments := normalisation(config, dataset.image_shape[2]):
        dataset = replace(dataset, mean=moments[0], std=moments[1])
    _check_options(config)
    eval_model = build_network(named, classes)
    shapes = variables_by_shape(eval_model, dataset.image_shape)
    check_patterns(shapes["params"], config.freeze)
    config = with_recipe(config, batch_norm=bool(shapes["batch_stats"]))
    batch_size, total_steps = _lengths(config, dataset, devices)
    run = run_path(config, dataset, extend=extend)
    if config.weights is not None and not checkpoint_steps(run):  # what goes on has no more need of them
        starting_weights(config, eval_model)
    return Job(
        config=config,
        dataset=dataset,
        model=eval_model.clone(axis_name=devices.model_axis_name),
        eval_model=eval_model,
        devices=devices,
        parameters=sum(prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])),
        batch_size=batch_size,
        total_steps=total_steps,
        run=run,
    )


def _check_libraries(config: TrainConfig) -> None:
    """Raises ValueError if a library that the config asks for is not installed."""
    if config.tensorboard:
        library("tensorboardX", extra="tensorboard", purpose="tensorboard")
    if config.wandb:
        library("wandb", extra="wandb", purpose="wandb")


def _check_options(config: TrainConfig) -> None:
    """Raises ValueError for a given option that the network does not have."""
    known = [name for name in reaching(MODEL) if name in constructor_options(config.arch)]
    for name in reaching(MODEL):
        value = getattr(config, name)
        if value is not None and name not in known:
            raise ValueError(f"{config.arch} has no option {name}; it has {', '.join(known)}; given {value!r}")


def _lengths(config: TrainConfig, dataset: Dataset, devices: Devices) -> tuple[int, int]:
    """Batch size and number of steps, checked against data and devices."""
    examples, batch_size, pieces = len(dataset.train.labels), config.batch_size or 0, config.accumulate or 1
    if batch_size > examples:
        raise ValueError(f"batch_size must be at most the {examples} images of {config.data}; given {batch_size}")
    mixes = 2 if config.mixup or config.cutmix else 1
    least = devices.count * (pieces * mixes // gcd(pieces, mixes))
    if batch_size % least:
        why = [f"{devices.count} device{'s' * (devices.count > 1)}"]
        why += [f"{pieces} pieces"] if pieces > 1 else []
        why += ["pairs to mix"] if mixes > 1 else []
        raise ValueError(f"batch_size must be a multiple of {least}, for {' and '.join(why)}; given {batch_size}")
    steps = config.steps or -(-(config.epochs or 0) * examples // batch_size)
    if steps > MOST_STEPS:
        given = f"steps={config.steps}" if config.steps else f"epochs={config.epochs}, which are {steps}"
        raise ValueError(f"a run must have at most {MOST_STEPS} steps; given {given}")
    return batch_size, steps
