"""A checked run, that can start or resume: its options, data, network and devices, and what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from layers_flax import Network
from resnet_flax import stack_blocks
from training_flax.augment.registry import Augmentation, parse_augmentations
from training_flax.config.config import ResolvedConfig
from training_flax.config.optimizers import OPTIMIZERS
from training_flax.data.dataset import Dataset, StreamedSplit
from training_flax.given.own import Own
from training_flax.learn.class_weights import weights_of_classes
from training_flax.learn.optimizers import make_optimizer
from training_flax.learn.steps import Loss
from training_flax.runtime.devices import Devices

SHOWN = 36  # images in batch.png


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
        own: the loss, optimizer and callbacks that a user passed.
        own_names: names of the first two, see `Own.names`.
        run: the folder to write to: new, empty, or of the same run.
        mark: the run's mark, see `mark_of`.
        lengths: the numbers of steps that the run was planned for, see `lengths_of`.
    """

    config: ResolvedConfig
    dataset: Dataset
    model: Network
    eval_model: Network
    devices: Devices
    parameters: int
    batch_size: int
    total_steps: int
    run: Path
    mark: str
    lengths: tuple[int, ...]
    own: Own = field(default_factory=Own)
    own_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The user's optimizer, or else that of the config."""
        return self.own.optimizer or make_optimizer(self.config, self.total_steps)

    @property
    def loss(self) -> str | Loss:
        """The user's loss, or else the name of the config's."""
        return self.own.loss or self.config.loss

    @property
    def best_by(self) -> str:
        """The score, in words, by which the best weights are chosen."""
        return "mean average precision" if self.dataset.multi_label else "accuracy"

    @property
    def stacked(self) -> bool:
        """True if the state stacks the blocks of a stage, see `arranged`."""
        loops = getattr(self.model, "scan", False) and not getattr(self.model, "drop_path", 0)
        # Freezing, rates by part and optimizers that see an array as a whole need each block's parameters by name; and
        # a user's optimizer may.
        apart = self.config.freeze or self.config.layer_decay != 1 or self.own.optimizer
        return loops and not apart and OPTIMIZERS[self.config.optimizer].elementwise

    def arranged(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Converts a network's variables to the layout of the state: stacked if blocks run as a loop.

        With a thousand arrays fewer, a step of ResNet-1202 compiles in a tenth of the time.
        """
        return jax.jit(stack_blocks)(variables) if self.stacked else variables

    @property
    def epochs(self) -> int:
        """The number of epochs; the number of steps may cut the last one short."""
        return self.epoch_at(self.total_steps)

    def epoch_at(self, step: int) -> int:
        """Returns the epoch, from 1, that the training step with this number, from 1, belongs to."""
        return max(1, (step - 1) * self.batch_size // self.dataset.train.examples + 1)

    def last_step(self, epoch: int) -> int:
        """Returns the number of steps until `epoch`, counted from 1, is complete, or until training ends."""
        return min(-(-epoch * self.dataset.train.examples // self.batch_size), self.total_steps)

    def epoch_of(self, step: int) -> float:
        """Returns the (fractional) number of epochs after `step` steps."""
        return step * self.batch_size / self.dataset.train.examples

    def ends_early(self, evaluated: int, best_step: int) -> bool:
        """Tells if the config's patience has run out.

        Args:
            evaluated: the step of the last evaluation.
            best_step: the step of the evaluation with the best score on the validation part.
        """
        if self.config.patience is None or not evaluated:
            return False
        return self.epoch_at(evaluated) - self.epoch_at(best_step) >= self.config.patience

    def is_over(self, evaluated: int, best_step: int, stopped_by: str) -> bool:
        """Tells if a run has ended before its last step: for its patience, or by the callback `stopped_by`."""
        return bool(stopped_by) or self.ends_early(evaluated, best_step)

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
    def class_weights(self) -> tuple[float, ...] | None:
        """The weights of the classes in the loss, see `weights_of_classes`; None if all are the same."""
        dataset = self.dataset
        return weights_of_classes(self.config.class_weights, dataset.train.labels, dataset.class_names)

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
