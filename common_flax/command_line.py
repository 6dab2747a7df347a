"""Command lines over frozen dataclasses, which complain in one line on any terminal."""

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import tyro

from common_flax.errors import out_of_memory
from common_flax.signals import imported, leave, open_standard_streams
from common_flax.terminal import complain, written_out

Options = TypeVar("Options")


def parse_options(kind: type[Options], arguments: Sequence[str], *, prog: str, description: str) -> Options:
    """Reads the options of a command line.

    Args:
        kind: a dataclass, whose fields are the options.
        arguments: the words of the command line, without the program.
        prog, description: the program's name and purpose, for --help.

    Raises:
        ValueError: the command line is wrong; the message is one line.
        SystemExit: help was asked for, and shown.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), written_out():
            return tyro.cli(kind, prog=prog, description=description, args=arguments, config=(tyro.conf.DisallowNone,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise  # --help
        raise ValueError(_in_one_line(complaint.getvalue())) from None


def run_command(name: str, command: Callable[[], object], *errors: type[Exception]) -> int:
    """Runs a command and returns its exit code: 2 after an error that the user can correct, 130 after Ctrl-C, else 0.

    That memory ran out is such an error. An error with an attribute `exit_code` has that one.

    Args:
        name: the first word of the line that reports an error.
        command: does all the work, reading of the options included.
        errors: the errors that become one line on stderr, besides ValueError.
    """
    reported: tuple[type[Exception], ...] = (ValueError, *errors)
    try:
        command()
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        return 0
    except reported as error:
        complain(f"{name}: error: {error}")
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        complain(f"{name}: interrupted")
        return 130
    except (MemoryError, RuntimeError, OSError) as error:
        if not (line := out_of_memory(error)):
            raise
        complain(f"{name}: error: {line}")
        return 2
    return 0


def start_command(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs `main` with this process's arguments, and ends the process with the exit code that it returns."""
    imported()
    open_standard_streams()
    write_to_any_terminal()
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # between two lines of `main`
        code = 130
    leave(code)


def write_to_any_terminal() -> None:
    """Makes a terminal that lacks a character, such as × or …, show ? for it; without this the program stops."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _in_one_line(box: str) -> str:
    """Shortens tyro's box of several parts to the complaint and the option that may have been meant."""
    lines = [line.strip(" │╭╮╰╯") for line in box.splitlines()[1:]]  # without the title
    # Lines of dashes stand between the parts; where the terminal knows ASCII alone they are hyphens.
    ruled = "\n".join("\0" if line and not line.strip("─-") else line for line in lines)
    parts = [" ".join(part.split()) for part in ruled.split("\0") if part.strip()]
    complaint = parts[0].split(" Got errors:")[0].rstrip(".")
    meant = next((part.split(": ", 1)[1].split()[0] for part in parts if part.startswith("Perhaps you meant")), None)
    return complaint + (f"; did you mean {meant!r}?" if meant else "")
