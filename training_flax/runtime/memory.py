"""The memory of the process: kept from one step to the next, and an error in one line if it runs out."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from common_flax.errors import out_of_memory
from training_flax.runtime.signals import RunError
from training_flax.runtime.users_code import is_users

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> bool:
    """Makes this process reuse the memory that it frees; returns True if glibc allows that.

    A compiled program allocates its temporary memory each time it runs. By default glibc returns large blocks to Linux,
    which clears and maps all their pages again for the next step. Meant for a command's start: this holds for the whole
    process, and must come before JAX starts its backend. On the CPU, programs then run in the thread that calls them,
    since only the main heap can hold large blocks; each call waits for its results. Without glibc this does nothing.
    See `trim_memory`.
    """
    if not _has_glibc():
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    libc = ctypes.CDLL(None)
    # The heap never shrinks, and holds large blocks too.
    return all([libc.mallopt(M_TRIM_THRESHOLD, -1), libc.mallopt(M_MMAP_MAX, 0)])


def trim_memory() -> None:
    """Returns the unused pages of the heap to the system; the next step maps the pages that it needs again.

    In a program's first runs small arrays fragment the heap, so large ones move. After some tens of runs each large
    array stays in one place, and this call returns the memory of its earlier places. Call it after 1, 2, 4, 8, … steps,
    as `fit` does: memory then stays close to what is in use, at almost no cost in time.
    """
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def memory_for(batch_size: int) -> Iterator[None]:
    """Turns an error by which memory ran out, within this context, into a RunError that says how to need less."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if is_users(error) or not (line := out_of_memory(error)):
            raise
        advice = "take a smaller --batch-size, or --accumulate, --remat or --dtype bfloat16"
        raise RunError(f"{line} (at batch size {batch_size}); {advice}") from error


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
