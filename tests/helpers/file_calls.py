"""File calls of this process, failed or recorded by file_calls.c; for a process that ends afterwards."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")
MACHINES = ("x86_64", "aarch64")
missing = sys.platform != "linux" or os.uname().machine not in MACHINES or shutil.which("cc") is None
WHY_MISSING = "needs Linux on x86-64 or 64-bit ARM, and a C compiler"


class Group(IntFlag):
    """Kinds of calls that can fail."""

    WRITE = 1
    SYNC = 2
    RENAME = 4
    CREATE = 8  # also an open that empties a file
    FOLDER = 16
    REMOVE = 32
    READ = 64  # opening for reading, reading, and listing a folder
    MODE = 128
    CLOSE = 256  # of files that may be written
    CHANGES = WRITE | SYNC | RENAME | CREATE | FOLDER | REMOVE | MODE | CLOSE


class Manner(IntEnum):
    """The calls that fail, from the chosen one on."""

    ONCE = 0
    ALWAYS = 1
    HALF = 2  # a write that writes half, which is no error
    HALF_THEN_ALWAYS = 3  # as a disk that becomes full


class Call(NamedTuple):
    """A recorded call that succeeded.

    Attributes:
        name: "open", "write", "truncate", "allocate", "copy", "sync", "rename", "link", "symlink", "mkdir", "unlink",
            "rmdir" or "chmod".
        start: the place of the first byte written, the new size, or the flags of an open or unlink.
        path, other: the path, of the file when it is called by a descriptor; and the new name of a rename or link.
        data: the bytes written.
    """

    name: str
    start: int
    path: str
    other: str
    data: bytes


class FileCalls:
    """Catches the file calls of this process, in all threads and libraries, until the process ends.

    Programs that the process starts afterwards end at their first file call.

    Args:
        folder: where the C library is compiled.

    Raises:
        OSError: the system does not allow it.
    """

    def __init__(self, folder: Path):
        library = folder / "file_calls.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)], check=True)
        self._library = ctypes.CDLL(str(library))
        self._library.failed_call.restype = ctypes.c_char_p
        self._library.calls.restype = ctypes.c_long
        self._library.fail_call.argtypes = [ctypes.c_char_p, ctypes.c_long, *[ctypes.c_int] * 3]
        error = self._library.catch_calls()
        if error:
            raise OSError(error, f"file calls cannot be caught: {os.strerror(error)}")

    def fail(self, below: Path | None, number: int, group: Group, error: int, manner: Manner = Manner.ONCE) -> None:
        """Makes call `number` of these groups fail, counted from 1 among paths in a folder; 0 only counts."""
        self._library.fail_call(b"" if below is None else os.fsencode(below), number, group, error, manner)

    def let_pass(self) -> None:
        """Lets all calls succeed again."""
        self.fail(None, 0, Group(0), 0)

    @property
    def count(self) -> int:
        """The number of calls since `fail`."""
        return int(self._library.calls())

    @property
    def failed(self) -> str:
        """The first call that failed since `fail`, and its path; empty if none has."""
        return os.fsdecode(self._library.failed_call())

    @contextmanager
    def recorded(self, below: Path, log: Path) -> Iterator[None]:
        """Records calls that change something in a folder; the log must be outside of it."""
        self.fail(below, 0, Group.CHANGES, 0)
        with log.open("wb", buffering=0) as file:
            self._library.record_calls(file.fileno())
            try:
                yield
            finally:
                self._library.record_calls(-1)
                self.let_pass()


def read_calls(log: Path) -> Iterator[Call]:
    """Yields recorded calls in the order in which they were made."""
    text, place = log.read_bytes(), 0
    while place < len(text):
        head = text.index(b"\0", place)
        name, _, start, size, path = text[place:head].split(b" ", 4)
        end = text.index(b"\n", head)
        place = end + 1 + int(size)
        yield Call(
            name.decode(), int(start), os.fsdecode(path), os.fsdecode(text[head + 1 : end]), text[end + 1 : place]
        )
