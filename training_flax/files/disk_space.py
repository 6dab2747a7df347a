"""Disk space, checked before a run begins and before each checkpoint is written."""

import errno
import os
import shutil
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import jax

OVERHEAD = 4096  # bytes per array, besides its values


def checkpoint_size(state: Any) -> int:
    """Returns an upper estimate of the bytes that a checkpoint of a state takes; a state of shapes will do."""
    return sum(prod(leaf.shape) * leaf.dtype.itemsize + OVERHEAD for leaf in jax.tree.leaves(state))


def check_space(run: Path, needed: int, what: str) -> None:
    """Raises ValueError, with both numbers, if the disk for `run` has less than `needed` bytes free."""
    folder = next(path for path in (run.absolute(), *run.absolute().parents) if path.exists())
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # virtual file systems have a total of 0
        wanted, free = (f"{size / 1e6:,.1f} MB" for size in (needed, disk.free))
        raise ValueError(f"out {str(run)!r} needs {wanted} for {what}; {str(folder)!r} has {free} free")


def reserve(folder: Path, size: int) -> None:
    """Allocates `size` bytes in a folder and frees them; raises OSError if the disk, or a quota, is too small."""
    with tempfile.TemporaryFile(dir=folder) as file:
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot allocate in advance
                raise
