"""The ways in which a run ends early, by signals or errors, and the stop signals that its processes exchange."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common_flax.signals import (
    STOP as STOP,
    StopRequest as StopRequest,
    handled,
    stop_on_signals as stop_on_signals,
)

GO_ON, DUE, SAVE = 0, 1, 2  # stop signals: DUE saves at the end of the epoch; to stop, `STOP` plus the signal's number


class RunError(Exception):
    """Raised by a run that cannot go on. Its checkpoints are saved; the message is one line for the user."""


class Stopped(Exception):
    """Raised by a run that a signal stopped, after it has saved its state."""

    def __init__(self, number: int, run: Path, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}, which is saved in {run}")
        self.exit_code = 128 + number


class StopAsked(Exception):
    """Raised in the middle of an evaluation, or of waiting for images, so that a run stops sooner than after a step."""

    def __init__(self, stop_signal: int):
        super().__init__(f"stop signal {stop_signal}")
        self.stop_signal = stop_signal


@contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """A context in which SIGINT raises KeyboardInterrupt at once, and again at the next call of the yielded function.

    The second time is needed because Python drops an exception that is raised within some callbacks of libraries, such
    as one for a garbage-collected array.
    """
    received = []

    def receive(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    with handled(receive, signal.SIGINT):
        yield check


@contextmanager
def interrupt_after_saving(request: StopRequest) -> Iterator[None]:
    """A context in which Ctrl-C, or a notebook's button, sets `request` if it is armed; KeyboardInterrupt comes last.

    Raised between any two instructions, it would lose the steps since the last checkpoint. A second Ctrl-C raises it at
    once. Where others handle SIGINT this changes nothing.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    asked = False

    def receive(number: int, frame: object) -> None:
        nonlocal asked
        if asked or not request.armed:
            raise KeyboardInterrupt
        asked, request.stop_signal = True, STOP + number

    try:
        with handled(receive, signal.SIGINT):
            yield
    except Stopped as stopped:
        if asked:
            raise KeyboardInterrupt(str(stopped)) from None
        raise
    if asked:
        raise KeyboardInterrupt
