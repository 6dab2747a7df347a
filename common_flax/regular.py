"""Reading of regular files alone: a pipe, a device or a socket under a file's name would hang, or never end."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
LONGEST_TEXT = 2**24  # bytes


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file, or a link to one, for reading; nothing else is even opened.

    Raises:
        OSError: there is no such file, it cannot be opened, or it is a folder, pipe, device or socket.
    """
    try:
        _check_regular(Path(path).stat().st_mode)  # to open some devices changes them
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error)) from None
    file = os.fdopen(descriptor, "rb")
    try:
        _check_regular(os.fstat(descriptor).st_mode)  # another process may have replaced it
    except OSError:
        file.close()
        raise
    return file


def read_text(path: str | Path) -> str:
    """Reads a regular file of UTF-8, whole.

    Raises:
        OSError: see `open_regular`; or the file has more than `LONGEST_TEXT` bytes.
        UnicodeDecodeError: it is no text.
    """
    with open_regular(path) as file:
        data = file.read(LONGEST_TEXT + 1)
    if len(data) > LONGEST_TEXT:
        raise OSError(errno.EFBIG, f"it has more than {LONGEST_TEXT:,} bytes")
    return data.decode()


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {KINDS.get(stat.S_IFMT(mode), 'a special file')}, not a regular file")
