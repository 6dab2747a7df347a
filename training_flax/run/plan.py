"""The plan of a training run: all checks, before anything is compiled or written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from math import ceil, gcd, prod
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from common_flax.optional import library
from layers_flax import Network, variables_by_shape
from resnet_flax import stack_blocks
from training_flax.augment.registry import Augmentation, parse_augmentations
from training_flax.config.config import MODEL, ResolvedConfig, TrainConfig, build_network, reaching
from training_flax.config.recipes import with_recipe
from training_flax.config.run_config import check_bounds, numbers_options
from training_flax.data.dataset import BatchedSplit, Dataset, StreamedSplit
from training_flax.data.open import GIVEN, open_dataset
from training_flax.given.callbacks import Callback
from training_flax.given.data import Data, open_given
from training_flax.given.names import qualified_name
from training_flax.given.own import Own, check_own
from training_flax.learn.freeze import check_patterns
from training_flax.learn.optimizers import make_optimizer
from training_flax.learn.starting_weights import normalisation, seen_as_before, starting_weights
from training_flax.learn.steps import Loss
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
    def callback_names(self) -> tuple[str, ...]:
        """The names of the classes of the user's callbacks."""
        return tuple(map(qualified_name, self.own.callbacks))

    @property
    def facts(self) -> dict[str, Any]:
        """The entries of config.json that tell of what the user passed; empty for a run that its config describes."""
        facts: dict[str, Any] = {"callbacks": self.callback_names, "unused_options": self.own.unused}
        facts = {name: value for name, value in facts.items() if value} | {**self.own_names}
        facts |= {} if self.dataset.pixels else {"pixels": False}
        return facts | ({"resumption": self.resumption} if self.resumption else {})

    @property
    def resumption(self) -> str:
        """The way in which the run resumes, if a user passed its data; empty for data that the config names."""
        if self.config.data.partition(":")[0] not in GIVEN:
            return ""
        if isinstance(self.dataset.train, BatchedSplit):
            return "by epochs: the iterable begins anew, and the bits are not those of a run that never stopped"
        told = "while the images stay the same" if self.dataset.train_sum is None else "told by a hash of the images"
        return f"bit for bit, {told}"

    @property
    def stacked(self) -> bool:
        """True if the state stacks the blocks of a stage, see `arranged`."""
        loops = getattr(self.model, "scan", False) and not getattr(self.model, "drop_path", 0)
        # Freezing and LAMB need each block's parameters as arrays of their own, and so may a user's optimizer.
        apart = self.config.freeze or self.config.optimizer == "lamb" or self.own.optimizer
        return loops and not apart

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
        return next(epoch for epoch in count(1) if self.last_step(epoch) >= step)

    def last_step(self, epoch: int) -> int:
        """Returns the number of steps until `epoch`, counted from 1, is complete, or until training ends."""
        return min(ceil(epoch * self.dataset.train.examples / self.batch_size), self.total_steps)

    def epoch_of(self, step: int) -> float:
        """Returns the (fractional) number of epochs after `step` steps."""
        return step * self.batch_size / self.dataset.train.examples

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


def plan(
    config: TrainConfig,
    *,
    data: Data | None = None,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    callbacks: Iterable[Callback] = (),
    extend: bool = False,
    devices: Devices | None = None,
) -> Job:
    """Makes all checks of a run; writes nothing.

    Args:
        config: the options; those that are None come from the recipe.
        data: train and test images of your own, see `fit`; None opens the data set that the config names.
        loss: a loss of your own, see `make_train_step`; None is the config's.
        optimizer: any of Optax's, with learning rate and schedule of its own; None is the config's.
        callbacks: objects that see the run as it trains, see `Callback`.
        extend: allow an existing run to get more epochs or steps.
        devices: the devices, which may be those of another machine if programs are only to be compiled; None makes them
            as the options say.

    Raises:
        ValueError: the options do not fit each other, the data, the devices or the network, the weights belong to
            another network, or the folder belongs to another run.
    """
    with_recipe(config)  # checks the options, before any file is read
    own = check_own(loss, optimizer, callbacks)
    given = None if data is None else open_given(data, config)
    if given is not None:
        batch_size = config.batch_size if given.batch_size is None else given.batch_size
        config = replace(config, data=given.dataset.name, batch_size=batch_size)
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
    if given is not None:  # images stay what they are, whatever sizes the recipe names
        named = replace(named, image_size=config.image_size, test_image_size=config.test_image_size)
    dataset = _opened(named) if given is None else given.dataset
    if config.test_image_size not in (None, dataset.image_shape[0]) and not isinstance(dataset.test, StreamedSplit):
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
    resolved = replace(resolved, image_size=named.image_size, test_image_size=named.test_image_size)
    own_names = own.names(shapes["params"])
    check_bounds(numbers_options(resolved, dataset, own_names))
    total_steps = _total_steps(resolved, dataset, devices)
    run = run_path(resolved, dataset, own_names, extend=extend)
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
        mark=mark_of(run, resolved, dataset, own_names),
        lengths=lengths_of(run, total_steps),
        own=own,
        own_names=own_names,
    )


def _opened(named: ResolvedConfig) -> Dataset:
    """Opens the data set that the options name."""
    return open_dataset(
        named.data,
        data_dir=named.data_dir,
        train_split=named.train_split,
        test_split=named.test_split,
        strict=named.strict,
        image_size=named.image_size,
        default_image_size=published_size(ARCHS[named.arch]()),
    )


def _check_options(config: TrainConfig) -> None:
    """Raises ValueError for an option that the network does not have."""
    known = [name for name in reaching(MODEL) if name in constructor_options(config.arch)]
    for name in reaching(MODEL):
        if name not in known and (value := getattr(config, name)) is not None:
            raise ValueError(f"{config.arch} has no option {name}; it has {', '.join(known)}; given {value!r}")


def _total_steps(config: ResolvedConfig, dataset: Dataset, devices: Devices) -> int:
    """Returns the number of steps, and checks it and the batch size against data and devices."""
    if isinstance(dataset.train, BatchedSplit) and jax.process_count() > 1:
        raise ValueError(f"batches of your own train in one process; given {jax.process_count()} processes")
    examples, batch_size, pieces = dataset.train.examples, config.batch_size, config.accumulate
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
