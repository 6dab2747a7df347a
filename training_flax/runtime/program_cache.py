"""The folder in which JAX keeps compiled programs: machine code, which nobody else should be able to write."""

import os
import re
import stat
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from common_flax.terminal import complain

OF_THE_CACHE = r"Error (reading|writing) persistent compilation cache entry for '[^']*': (?s:(.*))"


def make_private(folder: Path) -> str | None:
    """Makes a folder and its parent, which belong to this project, so that only the user can read or write them.

    Returns:
        None if both belong to the user alone, else the reason why programs in it are not to be run.
    """
    try:
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        for place in (folder.parent, folder):
            place.mkdir(mode=0o700, exist_ok=True)
            if writer := other_writer(place):
                return writer
    except OSError as error:
        return f"{str(error.filename)!r}: {error.strerror}"
    return None


def other_writer(folder: Path) -> str | None:
    """Says that users other than this one and root may write to a folder; None if they may not.

    Raises:
        OSError: there is no such folder, or it cannot be reached.
    """
    found = folder.stat()
    if found.st_uid not in (0, os.geteuid()):
        return f"{str(folder)!r} belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"other users may write to {str(folder)!r}"
    return None


@cache
def tell_errors_once(folder: str) -> None:
    """Makes one line on stderr of JAX's warnings, a warning a program, that a cache cannot be read or written.

    Nor do they end a process in which warnings are errors.
    """
    show, told = warnings.showwarning, set()

    def show_once(message: Any, *rest: Any, **options: Any) -> None:
        found = re.fullmatch(OF_THE_CACHE, str(message))
        if found is None:
            show(message, *rest, **options)
        elif found[1] not in told:
            told.add(found[1])
            reason = " ".join(found[2].split())
            if found[1] == "reading":
                complain(f"programs are compiled anew; remove {folder!r}, whose programs cannot be read: {reason}")
            else:
                complain(f"compiled programs are not kept in {folder!r}: {reason}")

    warnings.showwarning = show_once
    warnings.filterwarnings("always", OF_THE_CACHE, UserWarning)
