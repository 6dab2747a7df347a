"""Compiling ahead of time: several programs at once, kept for the next start."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import platformdirs


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


def compile_together(lowered: Sequence[jax.stages.Lowered]) -> list[jax.stages.Compiled]:
    """Compiles several programs side by side: XLA leaves most cores idle most of the time."""

    def compiled(program: Any) -> jax.stages.Compiled:
        return program.compile()

    with ThreadPoolExecutor(len(lowered)) as pool:
        return list(pool.map(compiled, lowered))
