"""What the command lines of benchmarks share: lists of names, and one line where a value is wrong."""

import sys
from collections.abc import Iterable
from typing import NoReturn


def listed(names: str) -> list[str]:
    """What stands between commas."""
    return [name for name in names.split(",") if name]


def check_known(program: str, option: str, names: str, known: Iterable[str]) -> None:
    """Ends with exit code 2 where one of the names between commas is not known."""
    known = list(known)
    for name in listed(names):
        if name not in known:
            fail(program, f"--{option} must be of {', '.join(known)}; given {name!r}")


def fail(program: str, message: str) -> NoReturn:
    """One line and exit code 2."""
    print(f"{program}: error: {message}", file=sys.stderr)
    raise SystemExit(2)
