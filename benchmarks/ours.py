"""Our networks at a work: a step of `training_flax`, or the logits of a folded network."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.works import Work
from layers_flax import count_multiply_adds
from resnet_flax import stack_blocks
from training_flax import TrainState, build_model, compiler_options, keep_memory, make_train_step, start_state
from training_flax.runtime.compilation import garbage_left
from weights_flax import fold_batch_norm

OPTIMISER = optax.sgd(0.1, momentum=0.9)


def prepare(work: Work) -> tuple[Callable[[], Any], dict[str, float]]:
    """A function that does the work once and waits for it, and what compiling it took."""
    keep_memory()
    model = build_model(work.arch)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((work.batch, work.pixels, work.pixels, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, work.classes, work.batch), jnp.int32)
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
    """The step of `training_flax` for images (batch, height, width, channels), and what compiling it took."""
    images, labels = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    state = jax.eval_shape(lambda: start(model, jnp.zeros((1, *shape[1:]))))
    began = time.perf_counter()
    with garbage_left():  # as train.py
        program = jax.jit(make_train_step(model, OPTIMISER), donate_argnums=0).lower(state, images, labels)
    step = program.compile(compiler_options=compiler_options(remat=getattr(model, "remat", False)))
    return step, compiled_facts(step, began)


def start(model: Any, images: jax.Array) -> TrainState:
    """The state before the first step; of blocks that run as a loop the variables are stacked."""
    variables = model.init(jax.random.key(0), images, train=False)
    if getattr(model, "scan", False):
        variables = jax.jit(stack_blocks)(variables)
    return start_state(variables, OPTIMISER, jax.random.key(1))


def compiled_facts(compiled: Any, began: float) -> dict[str, float]:
    """Seconds since `began`, and XLA's temporary memory in MB."""
    seconds = time.perf_counter() - began
    return {"compile_seconds": seconds, "temp_mb": compiled.memory_analysis().temp_size_in_bytes / 1e6}
