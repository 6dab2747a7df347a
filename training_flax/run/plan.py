"""The plan of a training run: all checks, before anything is compiled or written."""

from collections.abc import Iterable
from dataclasses import replace
from math import gcd, prod
from pathlib import Path
from typing import Any, cast

import jax
import optax

from common_flax.optional import library
from layers_flax import variables_by_shape
from training_flax.config.config import MODEL, ResolvedConfig, TrainConfig, build_network, reaching
from training_flax.config.of_run import options_of_run
from training_flax.config.optimizers import check_momentum
from training_flax.config.recipes import RECIPES, with_recipe
from training_flax.config.run_config import check_bounds, check_model_options, is_run, numbers_options, read_run_config
from training_flax.config.several_classes import for_several_classes
from training_flax.data.dataset import BatchedSplit, Dataset
from training_flax.given.callbacks import Callback
from training_flax.given.data import Data, open_given
from training_flax.given.own import applicable, check_options, check_own
from training_flax.learn.class_weights import weights_of_classes
from training_flax.learn.freeze import check_patterns
from training_flax.learn.images import check_test_size, normalised, open_images
from training_flax.learn.starting_weights import seen_as_before, starting_weights
from training_flax.learn.steps import Loss
from training_flax.run.folder import TRAIN_FACTS, check_same_run, checkpoint_steps, lengths_of, mark_of, run_path
from training_flax.run.job import Job
from training_flax.runtime.devices import Devices

MOST_STEPS = 10**8  # years of training; memory holds the learning rate of each step, and steps are counted in 32 bits


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
    own = check_own(loss, optimizer, callbacks)
    config = applicable(config, loss=loss, optimizer=optimizer)
    asked, config = config, options_of_run(config, extend=extend)
    with_recipe(config)  # checks the options, before any file is read
    check_options(config, own)
    given = None if data is None else open_given(data, config)
    if given is not None:
        batch_size = config.batch_size if given.batch_size is None else given.batch_size
        config = replace(config, data=given.dataset.name, batch_size=batch_size)
    config = seen_as_before(config)
    named = with_recipe(config)
    if config.out is None or not is_run(config.out):  # a run's own, from its recipe, was never asked for
        check_momentum(named.optimizer, config.momentum, config.nesterov)
    for module, option in (("tensorboardX", "tensorboard"), ("wandb", "wandb")):
        if getattr(config, option):
            library(module, extra=option, purpose=option)
    jax_config: Any = jax.config  # its attributes know of contexts, its values do not
    if named.dtype == "float64" and not jax_config.jax_enable_x64:
        raise ValueError("dtype 'float64' needs jax.config.update('jax_enable_x64', True)")
    by_device = named.reduce_dtype != "float32"  # XLA's own sums have the type of a layer
    devices = devices or Devices(named.parallel, named.batch_norm, named.shard_state, each_device=by_device)
    if given is None:
        dataset = open_images(named)
    else:  # images stay what they are, whatever sizes the recipe names
        named = replace(named, image_size=config.image_size, test_image_size=config.test_image_size)
        dataset = normalised(given.dataset, named)
    config = for_several_classes(config, asked, dataset)
    if asked.test_image_size != RECIPES[named.recipe].config.test_image_size:
        check_test_size(asked.test_image_size, dataset)  # a recipe's, which a run keeps, is for streamed images alone
    if named.patience and dataset.validation is None:
        raise ValueError(
            f"patience is for data with a validation part, and {named.data} has none; --validation-share 0.1 holds a "
            f"tenth of the train part out; given patience={named.patience}"
        )
    classes = len(dataset.class_names)
    if config.num_classes not in (None, classes):
        raise ValueError(f"num_classes must be the {classes} of {named.data}; given {config.num_classes}")
    check_model_options(named.arch, {name: getattr(config, name) for name in reaching(MODEL)})
    weights_of_classes(named.class_weights, dataset.train.labels, dataset.class_names)
    eval_model = build_network(named, classes)
    shapes = variables_by_shape(eval_model, dataset.image_shape)
    check_patterns(shapes["params"], named.freeze)
    resolved = with_recipe(config, batch_norm=bool(shapes["batch_stats"]))
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


def images_of_run(config: TrainConfig, *, hint: str = "") -> tuple[ResolvedConfig, Dataset]:
    """Opens the data of the run in `config.out`, with the normalisation that its network has seen.

    Args:
        config: the options that are given; the run's own fill in the rest.
        hint: the end of the line that tells what differs.

    Returns:
        The run's options, and its data.

    Raises:
        ValueError: an option differs from the run's, the test images or the classes are others now, or any images of
            data that are given; or the data cannot be opened.
    """
    out = Path(str(config.out))
    stored = read_run_config(out)
    resolved = with_recipe(options_of_run(config, hint=hint))
    dataset = open_images(resolved)
    ignored = TRAIN_FACTS if config.data is None else ()
    check_same_run(out, numbers_options(resolved, dataset), ignored=ignored, hint=hint)
    return resolved, replace(dataset, mean=stored.mean, std=stored.std, moments_from="as the run began")


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
