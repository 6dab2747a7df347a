"""Our networks as a contender: a step of `training_flax`, or the logits of a folded network."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.works import Work, compiled_facts
from layers_flax import count_multiply_adds
from resnet_flax import stack_blocks
from training_flax import TrainState, build_model, compiler_options, keep_memory, make_train_step, start_state
from training_flax.runtime.compilation import garbage_left
from weights_flax import fold_batch_norm

OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def prepare(work: Work) -> tuple[Callable[[], Any], dict[str, float]]:
    """Returns a function that does the work once and waits for the result, and compile time and memory."""
    keep_memory()
    model = build_model(work.arch)
    images, labels = map(jnp.asarray, work.data())
    facts = {"multiply_adds": float(count_multiply_adds(model, images.shape[1:]) * work.batch)}
    if work.train:
        state = start(model, images[:1])
        step, compiling = compile_step(model, images.shape)

        def run() -> None:
            nonlocal state
            state, metrics = step(state, images, labels)
            jax.block_until_ready((state, metrics))

    else:
        model, variables = fold_batch_norm(model, model.init(jax.random.key(0), images[:1], train=False))
        began = time.perf_counter()
        program = jax.jit(partial(model.apply, train=False)).lower(variables, images)
        infer = program.compile(compiler_options=compiler_options())
        compiling = compiled_facts(infer, began)

        def run() -> None:
            infer(variables, images).block_until_ready()

    return run, facts | compiling


def compile_step(model: Any, shape: tuple[int, ...]) -> tuple[Callable[..., Any], dict[str, float]]:
    """Compiles the step of `training_flax` for images (batch, height, width, channels); tells time and memory."""
    images, labels = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    state = jax.eval_shape(lambda: start(model, jnp.zeros((1, *shape[1:]))))
    began = time.perf_counter()
    with garbage_left():  # as train.py does
        program = jax.jit(make_train_step(model, OPTIMIZER), donate_argnums=0).lower(state, images, labels)
    step = program.compile(compiler_options=compiler_options(remat=getattr(model, "remat", False)))
    return step, compiled_facts(step, began)


def start(model: Any, images: jax.Array) -> TrainState:
    """Returns the state before the first step; variables of blocks in a loop are stacked."""
    variables = model.init(jax.random.key(0), images, train=False)
    if getattr(model, "scan", False):
        variables = jax.jit(stack_blocks)(variables)
    return start_state(variables, OPTIMIZER, jax.random.key(1))
