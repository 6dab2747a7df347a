"""Output of a run on the terminal: lines, a progress bar, and errors of libraries in no more than a line."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tqdm import tqdm

from common_flax.terminal import tell, visible


def progress_bar(title: str, total: int, shown: bool) -> tqdm:
    """Makes a progress bar that counts images; it appears only if `shown` is True and stderr is a terminal."""
    return tqdm(total=total, desc=title, unit=" images", leave=False, disable=None if shown else True)


def complain_above_bar(line: str) -> None:
    """Prints a line on stderr, above the progress bar if there is one."""
    tqdm.write(visible(line), file=sys.stderr)


class Terminal:
    """Prints the lines of a run; a quiet one prints nothing."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet

    def say(self, line: str) -> None:
        """Prints a line at once."""
        if not self.quiet:
            tell(line)


@contextmanager
def orbax_hidden() -> Iterator[None]:
    """A context in which Orbax tells nothing: an error of its many threads becomes one line of the run.

    It would tell each error several times, with tracebacks: by loggers, by hooks of threads and of event loops that are
    collected, and by warnings of coroutines. Messages of other libraries are shown.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    of_threads, of_collected = threading.excepthook, sys.unraisablehook

    def thread_failed(args: threading.ExceptHookArgs) -> None:
        if not _from_orbax(args.exc_traceback):
            of_threads(args)

    def not_raised(args: Any) -> None:
        if not _from_orbax(args.exc_traceback):
            of_collected(args)

    for logger in loggers:
        logger.addFilter(_none)
    threading.excepthook, sys.unraisablehook = thread_failed, not_raised
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        threading.excepthook, sys.unraisablehook = of_threads, of_collected
        for logger in loggers:
            logger.removeFilter(_none)


def _none(record: logging.LogRecord) -> bool:
    """Lets no record of a logger pass."""
    return False


def _from_orbax(traceback: TracebackType | None) -> bool:
    """True if an error passed through Orbax, or through the event loops that it runs."""
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ("orbax", "asyncio"):
            return True
        traceback = traceback.tb_next
    return False
