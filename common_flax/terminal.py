"""The one way by which lines reach the terminal: names from files cannot steer it there."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

LONGEST = 4000  # characters of an error, which may quote what a file holds


class OutputError(OSError, ValueError):
    """Raised where stdout cannot be written to, as on a full disk; the message is one line."""


def visible(text: str) -> str:
    r"""Returns a text in one line whose characters all show: others become escapes, such as \x1b, \n or \u202e.

    These are control characters, line breaks, marks that turn the direction of text, other characters without a shape
    or a meaning in Unicode, and halves of surrogate pairs; `repr` replaces the same ones.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def plain_text(text: str) -> str:
    r"""Returns a name of a file as text that any format holds: bytes that are no UTF-8 become \xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def as_label(text: str, longest: int = 80) -> str:
    """Returns a text that Matplotlib draws as it is: `visible`, of bounded length, and without formulas.

    Matplotlib would take text between dollar signs for a formula, and a wrong formula ends the drawing with an error.
    """
    shown = visible(text[: longest + 1])
    return (shown if len(shown) <= longest else f"{shown[: longest - 1]}…").replace("$", r"\$")


def as_numbers(values: Sequence[float]) -> str:
    """Returns numbers as a line shows them: of four digits each, with blanks between them."""
    return " ".join(f"{value:.4g}" for value in values)


def say(*lines: str, file: IO[str] | None = None) -> None:
    """Prints lines at once, each of them `visible`.

    Args:
        lines: a line each; without their ends.
        file: the stream; None is stdout.

    Raises:
        OutputError: the stream cannot be written to. A reader who has gone is a BrokenPipeError.
    """
    with written_out():
        print(*map(visible, lines), sep="\n", file=file, flush=True)


@contextmanager
def written_out() -> Iterator[None]:
    """Turns errors of printing within this context into an OutputError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"the output cannot be written: {error.strerror or error}") from None


def tell(*lines: str) -> None:
    """Prints lines as `say`, unless stdout cannot be written to: work that writes files goes on without a reader."""
    with suppress(OSError):
        say(*lines)


@contextmanager
def complaining(logger: str, start: str) -> Iterator[None]:
    """Within this context, warnings that a library logs are complained of, a line each behind `start`."""

    class Complaints(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complain(f"{start}: {record.getMessage()}")

    log, handler = logging.getLogger(logger), Complaints(logging.WARNING)
    before = log.propagate
    log.addHandler(handler)
    log.propagate = False  # other libraries give the root a handler, in a form of their own
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before


def complain(line: str) -> None:
    """Prints a line on stderr, `visible` and of bounded length, unless that cannot be written to.

    A terminal that was closed is no error.
    """
    with suppress(OSError):
        say(line if len(line) <= LONGEST else f"{line[:LONGEST]}…", file=sys.stderr)
