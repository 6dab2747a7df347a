"""Locks that keep a second command out of a folder, and file systems that do not have them."""

import errno
import fcntl
import tempfile
from collections.abc import Callable
from pathlib import Path

from orbax.checkpoint._src.serialization import tensorstore_utils

# Errors of calls that a file system, or the kernel's filter of a container, does not have. 524 is Linux' own ENOTSUPP,
# which some drivers of network file systems let through.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.ENOTTY, 524)


def lock(descriptor: int) -> str | None:
    """Locks an open file against other processes until its descriptor is closed.

    NFS, Lustre and others may lack `flock` and have the locks of POSIX (`fcntl`), which are tried then.

    Args:
        descriptor: of a file that is open for writing.

    Returns:
        None, or the reason why the file system cannot lock.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the disk has an error.
    """
    return _tried(fcntl.flock, descriptor) and _tried(fcntl.lockf, descriptor)


def _tried(call: Callable[[int, int], None], descriptor: int) -> str | None:
    """Returns None if a call locks a file, or the reason why the call is not to be had."""
    try:
        call(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(error.errno, error.strerror) from None
        if error.errno not in NO_LOCKS:
            raise
        return error.strerror or "no locks"
    return None


def let_checkpoints_be_written(folder: Path) -> None:
    """Has TensorStore, which writes checkpoints, do without `flock` where the file system of a folder has none.

    A checkpoint is written to a folder of its own, in which no other process of this or another run writes.

    Args:
        folder: the run's folder, which need not exist yet.

    Raises:
        OSError: no file can be made there, or the disk has an error.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    # A file of its own: to close the lock's would give up a lock of POSIX.
    with tempfile.TemporaryFile(dir=there) as file:
        missing = _tried(fcntl.flock, file.fileno())
    mode = {"file_io_locking": {"mode": "none"}} if missing else {}
    # Orbax copies these for each checkpoint, and has no option for them.
    for context in (tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT):
        context.pop("file_io_locking", None)
        context.update(mode)
