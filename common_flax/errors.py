"""Errors of other libraries in one line."""

import errno
import re

# Texts of XLA, of C++ and of the system, which raise errors of several kinds.
OUT_OF_MEMORY = re.compile(
    "RESOURCE_EXHAUSTED|out of memory|bad_alloc|cannot allocate memory|can't start new thread", re.I
)
LONGEST_REASON = 200  # characters


def one_line(error: BaseException) -> str:
    """The text of an error, or its class where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def out_of_memory(error: BaseException) -> str | None:
    """Returns one line for an error by which memory ran out, of the machine or of a device; None for other errors."""
    ran_out = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not ran_out and not (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))):
        return None
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"memory ran out: {lines[0][:LONGEST_REASON]}"
