"""Errors of other libraries in one line, and those of ours that need a few."""

import errno
import re
from collections.abc import Sequence

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


class InLines(ValueError):
    """An error that needs more than one line, such as for a picture of what is expected.

    Attributes:
        first: the line that names the value given and what is wrong.
        rest: the lines below it.
    """

    def __init__(self, first: str, rest: Sequence[str]):
        super().__init__("\n".join([first, *rest]))
        self.first, self.rest = first, tuple(rest)
