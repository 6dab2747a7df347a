"""The plan of a training run: all checks, before anything is compiled or written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from math import ceil, gcd, prod
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from common_flax.optional import library
from layers_flax import variables_by_shape
from resnet_flax import stack_blocks
from training_flax.augment.registry import Augmentation, parse_augmentations
from training_flax.config.config import MODEL, ResolvedConfig, TrainConfig, build_network, reaching
from training_flax.config.recipes import with_recipe
from training_flax.config.run_config import check_bounds, numbers_options
from training_flax.data.dataset import Dataset, Split, StreamedSplit
from training_flax.data.open import open_dataset
from training_flax.learn.freeze import check_patterns
from training_flax.learn.starting_weights import normalisation, seen_as_before, starting_weights
from training_flax.run.folder import as_begun, checkpoint_steps, lengths_of, mark_of, run_path
from training_flax.runtime.devices import Devices
from weights_flax.io.archs import ARCHS, constructor_options, published_size

SHOWN = 36  # images in batch.png
MOST_STEPS = 10**8  # years of training; memory holds the learning rate of each step, and steps are counted in 32 bits


@dataclass(frozen=True)
class Job:
    """A checked run that can start or resume.

    Attributes:
        config: the resolved options.
        dataset: the run's data.
        model, eval_model: the network for the training step on `devices`, and for evaluation.
        devices: the run's devices.
        parameters: the number of the model's parameters.
        batch_size: images per step, on all devices together.
        total_steps: optimizer steps to take.
        run: the folder to write to: new, empty, or of the same run.
        mark: the run's mark, see `mark_of`.
        lengths: the numbers of steps that the run was planned for, see `lengths_of`.
    """

    config: ResolvedConfig
    dataset: Dataset
    model: nn.Module
    eval_model: nn.Module
    devices: Devices
    parameters: int
    batch_size: int
    total_steps: int
    run: Path
    mark: str
    lengths: tuple[int, ...]

    @property
    def stacked(self) -> bool:
        """True if the state stacks the blocks of a stage, see `arranged`."""
        loops = getattr(self.model, "scan", False) and not getattr(self.model, "drop_path", 0)
        # Freezing and LAMB need each block's parameters as arrays of their own.
        return loops and not self.config.freeze and self.config.optimizer != "lamb"

    def arranged(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Converts a network's variables to the layout of the state: stacked if blocks run as a loop.

        With a thousand arrays fewer, a step of ResNet-1202 compiles in a tenth of the time.
        """
        return jax.jit(stack_blocks)(variables) if self.stacked else variables

    @property
    def epochs(self) -> int:
        """The number of epochs; the number of steps may cut the last one short."""
        return next(epoch for epoch in count(1) if self.last_step(epoch) == self.total_steps)

    def last_step(self, epoch: int) -> int:
        """Returns the number of steps until `epoch`, counted from 1, is complete, or until training ends."""
        return min(ceil(epoch * len(self.dataset.train.labels) / self.batch_size), self.total_steps)

    def epoch_of(self, step: int) -> float:
        """Returns the (fractional) number of epochs after `step` steps."""
        return step * self.batch_size / len(self.dataset.train.labels)

    @property
    def change_until(self) -> int | None:
        """The first step without augmentation; None if augmentation never ends."""
        share = self.config.augment_until
        return None if share == 1 else ceil(share * self.total_steps)

    @property
    def image_dtype(self) -> Any:
        """The type of the network's input, the normalised images."""
        return jnp.float64 if self.config.dtype == "float64" else jnp.float32

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """The augmentations on the devices; random crops of streamed images are made by the decoder instead."""
        names = self.config.augment
        if self.min_area is not None:
            names = tuple(name for name in names if not name.startswith("random-resized-crop"))
        return parse_augmentations(names, interpolation=self.config.interpolation)

    @property
    def min_area(self) -> float | None:
        """The smallest area of random crops that the decoder makes; None if it makes none."""
        crops = [name for name in self.config.augment if name.startswith("random-resized-crop")]
        if not crops or not isinstance(self.dataset.train, StreamedSplit):
            return None
        return float(crops[0].partition(":")[2] or 0.08)

    @property
    def shown(self) -> int:
        """The number of images in batch.png: up to `SHOWN`, an even number on each device."""
        each = 2 * self.devices.count
        return min(max(SHOWN // each, 1) * each, self.batch_size) if self.batch_size % 2 == 0 else self.batch_size


def plan(config: TrainConfig, *, extend: bool = False, devices: Devices | None = None) -> Job:
    """Makes all checks of a run; writes nothing.

    Args:
        config: the options; those that are None come from the recipe.
        extend: allow an existing run to get more epochs or steps.
        devices: the devices, which may be those of another machine if programs are only to be compiled; None makes them
            as the options say.

    Raises:
        ValueError: the options do not fit each other, the data, the devices or the network, the weights belong to
            another network, or the folder belongs to another run.
    """
    with_recipe(config)  # checks the options, before any file is read
    config = seen_as_before(config)
    named = with_recipe(config)
    for module, option in (("tensorboardX", "tensorboard"), ("wandb", "wandb")):
        if getattr(config, option):
            library(module, extra=option, purpose=option)
    jax_config: Any = jax.config  # its attributes know of contexts, its values do not
    if config.dtype == "float64" and not jax_config.jax_enable_x64:
        raise ValueError("dtype 'float64' needs jax.config.update('jax_enable_x64', True)")
    by_device = config.reduce_dtype != "float32"  # XLA's own sums have the type of a layer
    devices = devices or Devices(config.parallel, config.batch_norm, config.shard_state, each_device=by_device)
    size, default_size = named.image_size, published_size(ARCHS[named.arch]())
    dataset = open_dataset(
        named.data,
        data_dir=named.data_dir,
        train_split=named.train_split,
        test_split=named.test_split,
        strict=named.strict,
        image_size=size,
        default_image_size=default_size,
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
    resolved = as_begun(with_recipe(config, batch_norm=bool(shapes["batch_stats"])), config)
    check_bounds(numbers_options(resolved, dataset))
    total_steps = _total_steps(resolved, dataset, devices)
    run = run_path(resolved, dataset, extend=extend)
    if config.weights is not None and not checkpoint_steps(run):  # a run that resumes does not read its weights again
        starting_weights(config, eval_model)
    return Job(
        config=resolved,
        dataset=dataset,
        model=eval_model.clone(axis_name=devices.model_axis_name),
        eval_model=eval_model,
        devices=devices,
        parameters=sum(prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])),
        batch_size=resolved.batch_size,
        total_steps=total_steps,
        run=run,
        mark=mark_of(run, resolved, dataset),
        lengths=lengths_of(run, total_steps),
    )


def _check_options(config: TrainConfig) -> None:
    """Raises ValueError for an option that the network does not have."""
    known = [name for name in reaching(MODEL) if name in constructor_options(config.arch)]
    for name in reaching(MODEL):
        if name not in known and (value := getattr(config, name)) is not None:
            raise ValueError(f"{config.arch} has no option {name}; it has {', '.join(known)}; given {value!r}")


def _total_steps(config: ResolvedConfig, dataset: Dataset, devices: Devices) -> int:
    """Returns the number of steps, and checks it and the batch size against data and devices."""
    examples, batch_size, pieces = len(dataset.train.labels), config.batch_size, config.accumulate
    if batch_size > examples:
        raise ValueError(f"batch_size must be at most the {examples} images of {config.data}; given {batch_size}")
    mixes = 2 if config.mixup or config.cutmix else 1
    least = devices.count * (pieces * mixes // gcd(pieces, mixes))
    if batch_size % least:
        why = [f"{devices.count} device{'s' * (devices.count > 1)}"]
        why += [f"{pieces} pieces"] if pieces > 1 else []
        why += ["pairs to mix"] if mixes > 1 else []
        raise ValueError(f"batch_size must be a multiple of {least}, for {' and '.join(why)}; given {batch_size}")
    steps = config.steps or -(-cast(int, config.epochs) * examples // batch_size)  # a recipe names one of the two
    if steps > MOST_STEPS:
        given = f"steps={config.steps}" if config.steps else f"epochs={config.epochs}, which are {steps}"
        raise ValueError(f"a run must have at most {MOST_STEPS} steps; given {given}")
    return steps
