"""The three programs of a run, compiled: first state, training step, evaluation step."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from training_flax.augment import random_affine
from training_flax.compilation import compile_together
from training_flax.data import Part
from training_flax.evaluation import make_indexed_eval_step
from training_flax.job import Job
from training_flax.steps import EvalResult, TrainMetrics, TrainState, init_state, make_optimiser, make_train_step
from training_flax.steps import normalise as normalise_images


class Programs(NamedTuple):
    """Compiled functions of arrays that lie on the device."""

    init: Callable[[], TrainState]
    train_step: Callable[[TrainState, Part, jax.Array], tuple[TrainState, TrainMetrics]]  # gives its state's memory on
    eval_step: Callable[[Any, Part, jax.Array], EvalResult]


def compile_programs(job: Job) -> Programs:
    """Compiles all that the run of `job` needs."""
    dataset = job.dataset
    optimiser = make_optimiser(job.config, job.total_steps)
    step = make_train_step(job.model, optimiser, label_smoothing=job.config.label_smoothing)

    def init(key: jax.Array) -> TrainState:
        return init_state(job.model, optimiser, key, jnp.zeros((1, *dataset.train.images.shape[1:])))

    def train_step(state: TrainState, part: Any, indices: jax.Array) -> tuple[TrainState, TrainMetrics]:
        images = part.images[indices]
        if job.config.augment == "affine":
            images = random_affine(jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1), images)
        images = normalise_images(images, dataset.mean, dataset.std)
        return step(state, images, part.labels[indices])

    key = jax.random.key(job.config.seed)
    state = jax.eval_shape(init, key)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    indices = jax.ShapeDtypeStruct((job.batch_size,), jnp.int32)
    init_program, train_program, eval_program = compile_together(
        [
            jax.jit(init).lower(key),
            jax.jit(train_step, donate_argnums=0).lower(state, _shapes(dataset.train), indices),
            jax.jit(make_indexed_eval_step(job.model, dataset)).lower(variables, _shapes(dataset.test), indices),
        ]
    )
    return Programs(partial(init_program, key), train_program, eval_program)


def _shapes(part: Part) -> Part:
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), part)
