"""Being told to stop or to save: signals, and what is made of them between two steps."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

GO_ON, SAVE = 0, 1  # wishes; any larger one is the number of the signal that asks to stop, plus `STOP`
STOP = 100


class RunError(Exception):
    """A run that cannot go on; what it had is saved. The message is one line for the user."""


class Stopped(Exception):
    """A run that was told to stop, and has saved its state."""

    def __init__(self, number: int, run: Path, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}, which is saved in {run}")
        self.exit_code = 128 + number


class StopRequest:
    """Whether a signal has asked the run to stop.

    Attributes:
        stop_signal: `GO_ON`, or `STOP` plus the signal's number.
        armed: a step will see the signal. Before, there is nothing to save, and a signal ends the process at once.
    """

    __slots__ = ("armed", "stop_signal")  # a misspelt attribute is an error, and not a run that does not stop

    def __init__(self) -> None:
        self.stop_signal, self.armed = GO_ON, False

    def receive(self, number: int, frame: object) -> None:
        """Handles a signal: the first asks for a stop after the step, a second one does not wait for it."""
        if self.armed and self.stop_signal == GO_ON:
            self.stop_signal = STOP + number
            return
        name = signal.Signals(number).name
        what = "again; not waiting" if self.stop_signal else "before the first step; there is nothing to save"
        print(f"\n{name} {what}", file=sys.stderr, flush=True)
        os._exit(128 + number)  # threads that compile cannot be told to stop


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """SIGTERM and SIGINT ask for a stop, as long as this is entered."""
    request = StopRequest()
    before = {number: signal.signal(number, request.receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """SIGINT raises KeyboardInterrupt at once, and again where the given function is called next.

    What is raised while a callback of another library happens to run, such as that of a collected array, is lost.
    """
    received = []

    def receive(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, receive)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
