"""Ahead-of-time compilation: several programs at once, with the best options for the backend, cached on disk."""

import gc
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import platformdirs

from common_flax.terminal import complain
from layers_flax.autodiff.backend import backend
from training_flax.runtime.program_cache import make_private, other_writer, tell_errors_once

# For XLA in jaxlib 0.10. YNNPACK runs convolutions to at most 64 channels on one core, and others at 0.8 to 0.95 of
# Eigen's speed, so YNNPACK is left with reductions only. The disabled pass would drop the optimization barriers that
# `layers_flax.optimization_barrier` needs.
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_disable_hlo_passes": "cse_barrier_expander",
}
# This scheduler keeps fewer results in memory at once than the default one, but it runs rematerialised operations too
# early, so networks with remat go without it.
CPU_ORDER = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def compiler_options(*, remat: bool = False) -> dict[str, Any]:
    """Returns the options to compile a network with on the CPU; none for other backends.

    Use: `jax.jit(step, compiler_options=compiler_options())`. The options change speed and memory; they change numbers
    only within rounding. Options that the installed XLA does not know are left out.

    Args:
        remat: the network has `remat=True`.
    """
    if backend() != "cpu":
        return {}
    options = CPU_OPTIONS if remat else CPU_OPTIONS | CPU_ORDER
    return {name: value for name, value in options.items() if is_known(name, value)}


@cache
def is_known(option: str, value: str | bool) -> bool:
    """True if the installed XLA accepts `value` for this option; XLA's options change with its version."""
    try:
        jax.jit(lambda: jnp.zeros(())).lower().compile(compiler_options={option: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_compiled_programs() -> Path | None:
    """Turns on JAX's compilation cache, in the user's cache folder unless JAX has one configured; returns the folder.

    Meant for a command's start: this changes JAX's configuration for the whole process. Programs in the cache are run.
    So the user's cache folder is made for the user alone; where others may write to it programs are not kept, with a
    line on stderr, and None is returned. Of a configured folder a line says so, and it is used. Errors of reading and
    writing the cache become a line each.
    """
    default = platformdirs.user_cache_path("resnet-densenet-flax") / "jax"
    folder = jax.config.values["jax_compilation_cache_dir"] or str(default)
    if folder == str(default):
        if reason := make_private(default):
            complain(f"compiled programs are not kept, which makes each start slower: {reason}")
            jax.config.update("jax_compilation_cache_dir", None)
            return None
    else:
        with suppress(OSError):  # JAX makes a new folder; some are addresses of a storage service
            if reason := other_writer(Path(folder)):
                complain(f"{reason}; compiled programs there are run as you")
    jax.config.update("jax_compilation_cache_dir", folder)
    # By default JAX caches only programs that take a second to compile; the small ones add up to several seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    tell_errors_once(folder)
    return Path(folder)


def compile_together(
    lowered: Iterable[jax.stages.Lowered], options: dict[str, Any] | None = None
) -> list[Future[jax.stages.Compiled]]:
    """Starts to compile several programs in parallel, since XLA leaves most cores idle most of the time.

    Args:
        lowered: the programs. A generator traces the next program while the last one compiles.
        options: see `compiler_options`.

    Returns:
        Futures of the compiled programs, in the same order.
    """
    pool = ThreadPoolExecutor()
    try:
        return [pool.submit(program.compile, compiler_options=options) for program in lowered]
    finally:
        pool.shutdown(wait=False)


@contextmanager
def garbage_left() -> Iterator[None]:
    """Turns off Python's garbage collector: tracing makes millions of objects, hardly any of them in cycles."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
