"""Compiling ahead of time: several programs at once, as is best for the backend, kept for the next start."""

import gc
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import platformdirs

# Of XLA in jaxlib 0.10. YNNPACK computes convolutions to 64 channels or fewer on one core, others at 0.8 to 0.95 of the
# speed of Eigen, which is left with them where YNNPACK is to reduce alone. The pass drops optimisation barriers, which
# `layers_flax.optimization_barrier` needs.
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_disable_hlo_passes": "cse_barrier_expander",
}
# The default scheduler lets more operations run side by side and keeps more results in memory at once. This one keeps
# fewer, but it runs rematerialised operations too early, so networks with remat go without it.
CPU_ORDER = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def compiler_options(*, remat: bool = False) -> dict[str, Any]:
    """What XLA should be told when it compiles a network for the CPU; nothing for other backends.

    `jax.jit(step, compiler_options=compiler_options())`. It changes speed and memory, and numbers within rounding.
    Options that the installed XLA does not know are left out.

    Args:
        remat: the network is one of `remat=True`.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = CPU_OPTIONS if remat else CPU_OPTIONS | CPU_ORDER
    return {name: value for name, value in options.items() if is_known(name, value)}


@cache
def is_known(option: str, value: str | bool) -> bool:
    """Tells whether the installed XLA takes `value` for one of its options; XLA's options change with its version."""
    try:
        jax.jit(lambda: jnp.zeros(())).lower().compile(compiler_options={option: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_compiled_programs() -> Path:
    """Has JAX keep what it compiles, in the user's cache folder unless JAX has been told of another; gives the folder.

    For a program's front door: it changes JAX's configuration for the whole process.
    """
    folder = (
        jax.config.values["jax_compilation_cache_dir"] or platformdirs.user_cache_path("resnet-densenet-flax") / "jax"
    )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default only what takes a second to compile is kept; small programs add up to several.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return Path(folder)


def compile_together(
    lowered: Iterable[jax.stages.Lowered], options: dict[str, Any] | None = None
) -> list[Future[jax.stages.Compiled]]:
    """Starts to compile several programs side by side: XLA leaves most cores idle most of the time.

    Args:
        lowered: the programs; of a generator each is compiled, or loaded, while the next is traced.
        options: what XLA is told of each, see `compiler_options`.

    Returns:
        What will be the compiled programs, in the same order. Until they are asked for, other work can be done.
    """

    def compiled(program: Any) -> jax.stages.Compiled:
        return program.compile(compiler_options=options)

    pool = ThreadPoolExecutor()
    try:
        return [pool.submit(compiled, program) for program in lowered]
    finally:
        pool.shutdown(wait=False)


@contextmanager
def garbage_left() -> Iterator[None]:
    """Keeps Python from looking for garbage: tracing makes millions of objects, and leaves hardly any in cycles."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
