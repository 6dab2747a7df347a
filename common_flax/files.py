"""The one writer of files: each appears under its name when it is whole and on the disk, or not at all.

Readers of files that others may have made open regular ones alone: a pipe, a device or a socket under a file's name
would hang, or never end.
"""

import errno
import os
import secrets
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

UNFINISHED = ".unfinished"  # ends the names of files that are being written
LONGEST_NAME = 200  # bytes of a name that go into its temporary name; file systems allow 255
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
LONGEST_TEXT = 2**24  # bytes


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a new path in the same folder to write to, and renames that file to `path` if the block has no error.

    A reader finds the old file or the new one, never a part of it, also after a loss of power: the file is on the disk
    before it gets its name, and the name before this returns. Of several writers at the same time the last one wins.
    After an error nothing stays behind. The file gets the permissions of the user's umask. A link stays a link: its
    target is replaced. Devices and pipes, such as /dev/stdout, are yielded themselves.

    Args:
        path: the file to write; one that exists is replaced.

    Raises:
        OSError: the file cannot be made, or renamed. Errors of the block go on to the caller.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    unfinished = _new_name(path)
    try:
        unfinished.touch(exist_ok=False)
        permissions = unfinished.stat().st_mode & 0o777
        yield unfinished
        unfinished.chmod(permissions)  # some libraries replace the file by one that only its owner can read
        sync(unfinished)
        unfinished.replace(path)
    finally:
        with suppress(OSError):  # renamed already, or never written
            unfinished.unlink()
    sync(path.parent)


def save_figure(figure: Any, path: Path, format: str | None = None) -> None:
    """Writes a figure of Matplotlib, whole or not at all; without a format, the ending of `path` is it, or else PNG."""
    with whole_file(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # such as those of Japanese names
        figure.savefig(file, format=format or path.suffix[1:].lower() or "png", dpi=120)


def user_path(path: str | Path) -> Path:
    """Returns a path with the user's home for a leading ~, unless there is a file whose own name begins so."""
    if not os.path.lexists(path):
        with suppress(RuntimeError):  # ~NAME of nobody
            return Path(path).expanduser()
    return Path(path)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file. Without `sync` a loss of power may take the last lines, or leave a part of one."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def make_folder(path: str | Path) -> None:
    """Makes a folder and its parents, on the disk when this returns; a folder that exists is left as it is."""
    path = Path(path).absolute()
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(new):
        sync(folder.parent)


def sync(path: str | Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk.

    Raises:
        OSError: the disk has an error.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync folders; their servers do it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Waits until all files and folders below `folder`, and the folder itself, are on the disk."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(place, name))
        sync(place)


def remove(path: Path) -> None:
    """Removes a folder with everything in it, or a file, link or pipe.

    Raises:
        OSError: it is not there, or cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_unfinished(folder: Path) -> None:
    """Removes what killed writers left in a folder; call it only while no other process writes there."""
    for path in folder.glob(f"*{UNFINISHED}"):
        with suppress(OSError):
            path.unlink()


def _new_name(path: Path) -> Path:
    """Returns a name in the same folder that no other writer has."""
    start = os.fsdecode(os.fsencode(path.name)[:LONGEST_NAME])
    return path.with_name(f"{start}.{secrets.token_hex(4)}{UNFINISHED}")


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
