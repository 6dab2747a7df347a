"""Memory of the process, kept from one step to the next."""

import ctypes
import platform

import jax

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> bool:
    """Has this process keep the memory that it frees for what it asks for next; tells whether it could.

    A program asks for its temporary memory anew each time it runs. By default glibc gives large pieces back to Linux,
    which clears and maps all their pages again for the next step. For a program's front door: it holds for the whole
    process, and must come before JAX has found its devices. On the CPU programs then run in the thread that calls them,
    which waits for what they give, for no other thread has a heap that can hold large pieces. Without glibc nothing is
    done. See `trim_memory`.
    """
    if not _has_glibc():
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    libc = ctypes.CDLL(None)
    # The heap never shrinks, and holds large pieces too.
    answers = [libc.mallopt(name, value) for name, value in ((M_TRIM_THRESHOLD, -1), (M_MMAP_MAX, 0))]
    return all(answers)


def trim_memory() -> None:
    """Gives back the memory that nothing lies in, whose pages the next step maps again.

    In a program's first runs small arrays fragment the heap, so large ones move. After some tens of runs each large
    array stays in one place, and this call gives back the places that it left. Call it after 1, 2, 4, 8, … steps, as
    `fit` does: memory then stays close to what is in use, at almost no cost in time.
    """
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
