"""The one writer of files: each appears under its name when it is whole, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a path in the same folder to write to, and renames that file to `path` if the block ends without an error.

    A reader finds the old file or the new one, never a part of it. After an error nothing stays behind. The file gets
    the permissions of the user's umask.

    Args:
        path: the file to write; one that exists is replaced.

    Raises:
        OSError: the file cannot be made, or renamed. Errors of the block go on to the caller.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        unfinished.touch()
        permissions = unfinished.stat().st_mode & 0o777
        yield unfinished
        unfinished.chmod(permissions)  # some libraries replace the file by one that only its owner can read
        unfinished.replace(path)
    finally:
        with suppress(OSError):  # renamed already, or never written
            unfinished.unlink()
