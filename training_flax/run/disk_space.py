"""Room on the disk: for a run as a whole before it begins, and for each checkpoint before it is written."""

import errno
import os
import shutil
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import jax

OVERHEAD = 4096  # bytes an array takes beside its numbers


def checkpoint_size(state: Any) -> int:
    """Bytes that a checkpoint of a state, of arrays or of shapes, takes, or a little more."""
    return sum(prod(leaf.shape) * leaf.dtype.itemsize + OVERHEAD for leaf in jax.tree.leaves(state))


def check_room(run: Path, needed: int, what: str) -> None:
    """Raises ValueError, which names both numbers, if the disk that holds `run` has less than `needed` bytes free."""
    folder = next(path for path in (run.absolute(), *run.absolute().parents) if path.exists())
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # what is no disk has a total of 0
        raise ValueError(
            f"out {str(run)!r} needs {_megabytes(needed)} for {what}; {str(folder)!r} has {_megabytes(disk.free)} free"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def reserve(folder: Path, size: int) -> None:
    """Takes `size` bytes in a folder and gives them back; raises OSError where the disk, or a quota, lacks them."""
    with tempfile.TemporaryFile(dir=folder) as file:
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot tell
                raise
