"""The compiled programs of a run: initial state, training step, evaluation step, and the images that a step sees."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from layers_flax import variables_by_shape
from layers_flax.nn.normalise import normalise as normalise_images
from training_flax.augment.mix import mix
from training_flax.augment.registry import augment_images, example_keys
from training_flax.data.dataset import AnySplit, BatchedSplit, Split
from training_flax.data.loader import UNCHANGED, Batch
from training_flax.learn.evaluation import in_rows, make_indexed_eval_step, pixels_of, whole_batch
from training_flax.learn.multi_label import ClassLogits
from training_flax.learn.optimizers import make_optimizer
from training_flax.learn.state import EvalResult, TrainMetrics, TrainState, run_keys, start_state
from training_flax.learn.steps import make_train_step
from training_flax.run.folder import checkpoint_steps
from training_flax.run.job import Job
from training_flax.runtime.compilation import compile_together, compiler_options, garbage_left

AUGMENT_STREAM = 1 << 20  # folded into the run's key; differs from the numbers of steps, which dropout folds in


class Programs(NamedTuple):
    """Compiled functions of arrays on the devices, and the shapes of the state."""

    state: TrainState  # shapes, types and shardings
    init: Callable[[], TrainState]
    train_step: Callable[[TrainState, Any, Batch], tuple[TrainState, tuple[TrainMetrics, jax.Array]]]
    eval_step: Callable[[Any, Any, Batch], EvalResult | ClassLogits]  # on the part that is looked at after each epoch
    test_step: Callable[[Any, Any, Batch], EvalResult | ClassLogits]  # on the test part
    show: Callable[[TrainState, Any, Batch], tuple[jax.Array, jax.Array]]  # see `make_loader`; pixels 0 to 255


@garbage_left()
def compile_programs(job: Job) -> Programs:
    """Compiles all programs of a run. The train step donates its state's buffers.

    Meanwhile the initial variables of a new run are drawn; the first call of `init` takes them.
    """
    config, dataset, devices = job.config, job.dataset, job.devices
    load = make_loader(job)
    key = jax.random.key(config.seed)
    state = placed_state(job)
    sharding = jax.tree.map(lambda leaf: leaf.sharding, state)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    train_split = _shapes(dataset.train, 1)[0]
    shown = _shapes(dataset.train, job.shown // jax.process_count())[1]
    rows = whole_batch(job.batch_size, devices) // jax.process_count()
    watched, tested = (_shapes(split, rows) for split in (dataset.watched[1], dataset.test))
    eval_step = make_indexed_eval_step(job.eval_model, dataset, job.image_dtype, job.own.loss)

    def lowered() -> Iterator[jax.stages.Lowered]:
        """Traces the programs, those that take longest to compile first."""
        yield lower_train_step(job)
        yield devices.map_rows(eval_step, (variables, *watched))
        yield devices.map_rows(lambda state, *rest: load(state.key, *rest), (state, train_split, shown))
        yield jax.jit(make_start(job), out_shardings=sharding, donate_argnums=0).lower(variables, key=key)
        if tested != watched:
            yield devices.map_rows(eval_step, (variables, *tested))

    def draw() -> Any:
        image = jax.ShapeDtypeStruct((1, *dataset.image_shape), job.image_dtype)
        return job.arranged(job.model.init(params_key, image, train=False))

    params_key, run_key = run_keys(key)
    compiling = compile_together(lowered(), compiler_options(remat=getattr(job.model, "remat", False)))
    drawn = [] if checkpoint_steps(job.run) else [draw()]
    train_program, eval_program, show_program, start, *others = [program.result() for program in compiling]

    def init() -> TrainState:
        return start(devices.replicate(drawn.pop() if drawn else draw()), key=run_key)

    test_program = others[0] if others else eval_program
    return Programs(state, init, train_program, eval_program, test_program, show_program)


def lower_train_step(job: Job, rate: optax.Schedule | None = None) -> jax.stages.Lowered:
    """Traces a step of the run: its images out of the split or the batch, augmented; the step; and the stop signal.

    `rate` stands in for the learning rate of the config.
    """
    config, dataset, devices = job.config, job.dataset, job.devices
    step = make_train_step(
        job.model,
        job.optimizer if rate is None else make_optimizer(config, job.total_steps, rate),
        label_smoothing=config.label_smoothing,
        class_weights=job.class_weights,
        loss=job.loss,
        accumulate=config.accumulate,
        ema=config.ema,
        ema_warmup=config.ema_warmup,
        batch_norm_decay=config.batch_norm_decay,
        freeze=config.freeze,
        axis_name=devices.axis_name,
        reduce_dtype=None if config.reduce_dtype == "float32" else config.reduce_dtype,
        multi_label=dataset.multi_label,
    )
    load = make_loader(job)

    def train_step(state: TrainState, split: Any, batch: Batch) -> tuple[TrainState, tuple[TrainMetrics, jax.Array]]:
        images, targets = load(state.key, split, batch)
        stop_signal = batch.stop_signal.max()
        if devices.axis_name is not None:
            stop_signal = jax.lax.pmax(stop_signal, devices.axis_name)
        state, metrics = step(state, normalise_images(images, dataset.mean, dataset.std, job.image_dtype), targets)
        return state, (metrics, stop_signal)

    return devices.map_step(
        train_step, (placed_state(job), *_shapes(dataset.train, job.batch_size // jax.process_count()))
    )


def placed_state(job: Job) -> TrainState:
    """Returns the shapes, types and shardings of the run's state."""
    state = state_by_shape(job)
    sharding = job.devices.state_sharding(state)
    return jax.tree.map(lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), state, sharding)


def state_by_shape(job: Job) -> TrainState:
    """Returns the shapes and types of the run's state."""
    variables = jax.eval_shape(job.arranged, variables_by_shape(job.model, job.dataset.image_shape))
    return jax.eval_shape(make_start(job), variables, key=jax.random.key(0))


def make_start(job: Job) -> Callable[..., TrainState]:
    """Makes the function (variables, key) → state before the first step."""
    return partial(
        start_state,
        optimizer=job.optimizer,
        ema=bool(job.config.ema),
        loss_scaling=job.config.dtype == "float16",
    )


def make_loader(job: Job) -> Callable[[jax.Array, Any, Batch], tuple[jax.Array, jax.Array]]:
    """Makes the function (key, split, batch) → images of 0 to 255 and targets (batch, classes), both augmented.

    The changes of an image depend on key, epoch and example alone; mixing depends on the neighbour too. Images with
    UNCHANGED for their epoch stay the same.
    """
    config, augmentations, classes = job.config, job.augmentations, len(job.dataset.class_names)

    def load(key: jax.Array, split: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        images, labels = pixels_of(split, batch, job.dataset.image_shape)
        several = labels.ndim == 2
        targets = labels.astype(job.image_dtype) if several else jax.nn.one_hot(labels, classes, dtype=job.image_dtype)
        if not (augmentations or config.mixup or config.cutmix):
            return images, targets
        keys = example_keys(jax.random.fold_in(key, AUGMENT_STREAM), batch.epochs, batch.examples)
        changed = augment_images(augmentations, keys, images, job.image_dtype)
        changed, mixed = mix(keys, changed, targets, mixup=config.mixup, cutmix=config.cutmix)
        if job.change_until is None:
            return changed, mixed
        unchanged = batch.epochs == UNCHANGED
        images = jnp.where(unchanged[:, None, None, None], images.astype(changed.dtype), changed)
        return images, jnp.where(unchanged[:, None], targets, mixed)

    return load


def _shapes(split: AnySplit, rows: int) -> tuple[Any, Batch]:
    """Returns the shapes of a split on the device (None if it is not in memory) and of a batch of `rows` examples."""
    numbers = jax.ShapeDtypeStruct((rows,), np.int32)
    if isinstance(split, Split):
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), in_rows(split))
        return shapes, Batch(*[numbers] * 3)
    dtype = split.dtype if isinstance(split, BatchedSplit) else np.uint8
    images = jax.ShapeDtypeStruct((rows, *split.image_shape), dtype)
    labels = jax.ShapeDtypeStruct((rows, *split.labels.shape[1:]), split.labels.dtype)
    return None, Batch(numbers, numbers, numbers, images, labels)
