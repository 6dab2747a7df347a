"""Signals that ask a run to stop or to save, and how a run handles them between two steps."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common_flax.terminal import say

GO_ON, DUE, SAVE = 0, 1, 2  # stop signals: DUE saves at the end of the epoch; to stop, `STOP` plus the signal's number
STOP = 100


class RunError(Exception):
    """Raised by a run that cannot go on. Its checkpoints are saved; the message is one line for the user."""


class Stopped(Exception):
    """Raised by a run that a signal stopped, after it has saved its state."""

    def __init__(self, number: int, run: Path, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}, which is saved in {run}")
        self.exit_code = 128 + number


class StopRequest:
    """A request to stop, which signals set and the training loop reads.

    Attributes:
        stop_signal: `GO_ON`, or `STOP` plus the signal's number.
        armed: True while steps run. Otherwise there is nothing to save, and a signal ends the process at once.
    """

    __slots__ = ("armed", "stop_signal")  # a misspelt attribute is an error, not a run that never stops

    def __init__(self) -> None:
        self.stop_signal, self.armed = GO_ON, False

    def receive(self, number: int, frame: object) -> None:
        """Handles a signal: the first asks for a stop after the current step, a second one ends the process at once."""
        if self.armed and self.stop_signal == GO_ON:
            self.stop_signal = STOP + number
            return
        name = signal.Signals(number).name
        what = "again; not waiting" if self.stop_signal else "before the first step; there is nothing to save"
        say("", f"{name} {what}", file=sys.stderr)
        os._exit(128 + number)  # compiling threads cannot be interrupted


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A context in which SIGTERM and SIGINT ask for a stop."""
    request = StopRequest()
    with _handled(request.receive, signal.SIGTERM, signal.SIGINT):
        yield request


@contextmanager
def _handled(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


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

    with _handled(receive, signal.SIGINT):
        yield check
