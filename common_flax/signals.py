"""Signals that ask a command to stop, minded from its first import to its end."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

STOP = 100  # a request to stop is `STOP` plus the number of the system's signal
ALWAYS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C first, which Python minds already, with a traceback
# A terminal that closes sends SIGHUP, clusters warn by SIGUSR1 or SIGUSR2 before a job's time is over, and the limit on
# a process's CPU time by SIGXCPU. They would end the process. Under nohup they are ignored, and stay so.
UNLESS_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
PATIENCE = 0.2  # seconds in which the main thread usually gets to run a handler
COMMANDS = ("training_flax", "weights_flax", "theory_flax")  # packages that `python -m` runs

Receive = Callable[[int, Any], None]


class StopRequest:
    """A request to stop, which signals set and the training loop reads.

    Attributes:
        stop_signal: 0, or `STOP` plus the signal's number.
        armed: True from the first step on. Before, there is nothing to save, and a signal ends the process at once.
        unarmed: the words for that, after the name of the signal.
    """

    __slots__ = ("armed", "stop_signal", "unarmed")  # a misspelt attribute is an error, not a run that never stops

    def __init__(self, unarmed: str = "before the first step; there is nothing to save") -> None:
        self.stop_signal, self.armed, self.unarmed = 0, False, unarmed

    def receive(self, number: int, frame: object) -> None:
        """Handles a signal: the first asks for a stop after the current step, a second one ends the process at once."""
        if self.armed and not self.stop_signal:
            self.stop_signal = STOP + number
            return
        # Compiling threads cannot be interrupted, so the process does not wait for any.
        _end_at_once(number, "again; not waiting" if self.stop_signal else self.unarmed)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A context, of the main thread, in which signals ask for a stop.

    They are SIGTERM and SIGINT; and SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU where they would end the process.
    """
    request = StopRequest()
    open_standard_streams()
    with _watched(request.receive) as receive, handled(receive, *_minded()):
        yield request


@contextmanager
def handled(handler: Receive, *numbers: int) -> Iterator[None]:
    """A context in which `handler` handles the signals `numbers`, unless another handler takes its place."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, old)


def mind_imports() -> str:
    """Has signals end the process with one line while `python -m` imports the package of a command.

    Python imports the whole package before its `__main__`, which takes seconds, and Ctrl-C would show a traceback.
    Returns the last part of the command's name; "" in other processes.
    """
    if sys.argv[:1] != ["-m"] or (module := _module_to_run()).partition(".")[0] not in COMMANDS:
        return ""
    for number in _minded():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end_of_imports)
    return module.rpartition(".")[2]


def imported() -> None:
    """Ends what `mind_imports` began: Ctrl-C raises KeyboardInterrupt again."""
    for number in _minded():
        if signal.getsignal(number) is _end_of_imports:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def open_standard_streams() -> None:
    """Opens /dev/null for each of stdin, stdout and stderr that is closed.

    Otherwise the next file that is opened would take its place, and get the messages of libraries.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def leave(code: int, *, at_once: bool = True) -> NoReturn:
    """Ends the process with an exit code, which signals no longer change.

    Args:
        code: the exit code.
        at_once: after an error, do not wait for threads of libraries, some of which never end then.
    """
    for number in _minded():
        signal.signal(number, signal.SIG_IGN)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):  # its reader has gone; Python flushes once more at its end, which must not fail
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if code and at_once:
        os._exit(code)
    sys.exit(code)


def _minded() -> list[signal.Signals]:
    return [*ALWAYS, *(number for number in UNLESS_IGNORED if signal.getsignal(number) is not signal.SIG_IGN)]


def _module_to_run() -> str:
    """Returns the NAME of `python -m NAME`, or an empty text."""
    word = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)]  # the last one before the command's own arguments
    return word.partition("m")[2] if word.startswith("-") else word  # -mNAME is one word


def _end_of_imports(number: int, frame: object) -> None:
    _end_at_once(number, "at the start; nothing is done yet")


def _end_at_once(number: int, why: str) -> NoReturn:
    """Says why, and ends the process without any other work. Safe in a handler, which may interrupt a `print`."""
    with suppress(OSError):
        # On a terminal the echo of Ctrl-C, or a progress bar, is on the line already.
        os.write(2, f"{chr(10) if os.isatty(2) else ''}{signal.Signals(number).name} {why}\n".encode())
    os._exit(128 + number)


@contextmanager
def _watched(receive: Receive) -> Iterator[Receive]:
    """A context that yields a handler, by which each signal reaches `receive` once, and soon.

    Python runs handlers in the main thread, which may be inside of a library for minutes, and one handler for two equal
    signals. Their numbers are therefore written to a pipe too, and a thread hands on what no handler has come to.
    """
    lock, by_handler, received = threading.RLock(), 0, 0

    def handler(number: int, frame: object) -> None:
        nonlocal by_handler, received
        with lock:
            by_handler += 1
            if by_handler > received:
                received += 1
                receive(number, frame)

    def watch() -> None:
        nonlocal received
        seen = 0
        while written := os.read(out, 1):
            number = written[0]
            if signal.getsignal(number) is not handler:
                continue
            seen += 1
            time.sleep(PATIENCE)
            with lock:
                if received < seen:
                    received += 1
                    receive(number, None)

    before = signal.set_wakeup_fd(-1)
    if before != -1:  # an event loop has one of its own, and keeps it
        signal.set_wakeup_fd(before)
        yield handler
        return
    out, into = os.pipe()
    os.set_blocking(into, False)
    signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield handler
    finally:
        signal.set_wakeup_fd(-1)
        os.close(into)
        thread.join()
        os.close(out)
