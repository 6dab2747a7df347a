"""Processes that train together, one of which dies: the others learn which one, and end soon, in one line.

JAX's runtime notices a process that has died, tells of it in tens of lines of C++, and aborts every other process.
Here the abort is caught, and the lines tell who has died. Other lines of C and C++ are shown as they come.
"""

import ctypes
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from common_flax.terminal import visible
from training_flax.runtime.signals import RunError

EXIT_CODE = 75  # "temporary failure" of sysexits.h: the same command goes on
HEARTBEAT = 10  # seconds without a sign of life after which a process counts as dead
UNTIL_TOLD = 16.0  # seconds in which the runtime tells of a death that an operation has failed for
UNTIL_TAKEN = 2.0  # seconds, from then on, in which the main thread notices too, unless it hangs
UNTIL_SAVED = 5.0  # seconds
UNTIL_READ = 3.0  # seconds in which other processes read why this one ends
LOOK = 1.0  # seconds
NOTES = "resnet-densenet-flax/ended/"  # in the store of texts that all processes share

# Errors of operations in which several processes take part.
TOGETHER = re.compile(
    r"gloo|nccl|rccl|collective|all.?(reduce|gather)|barrier|coordination|UNAVAILABLE|DEADLINE_EXCEEDED"
    r"|socket closed|connection (reset|closed|refused)|broken pipe|peer",
    re.I,
)
FROM_ABSL = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([\w.]+):\d+\] ")
OF_THE_RUNTIME = re.compile(r"coordination_service|preemption_sync|client\.(h|cc)|grpc")
FATAL = "Terminating process because the JAX distributed service detected fatal errors"
DEAD = re.compile(r"unhealthy[^\n]*:\n((?:\d+\n)+)")


class ProcessLost(RunError):
    """Raised in a process that trains together with others, one of which has died; the message is one line."""

    exit_code = EXIT_CODE


class Watch:
    """This process's knowledge of the others; `watch` makes it.

    Attributes:
        lost: the numbers of processes that have died, as far as is known.
        save: saves what can be saved if the main thread hangs in an operation with the dead process; returns an error
            that says so. Another thread calls it.
    """

    def __init__(self, index: int, count: int, client: Any):
        self.lost: frozenset[int] = frozenset()
        self.save: Callable[[], Any] = self.error
        self._index, self._count, self._client = index, count, client
        self._told, self._taken, self._ending = threading.Event(), threading.Event(), threading.Event()
        self._noise, self._hidden, self._fatal = "", False, threading.Event()
        self._line, self._finished = "", False
        threading.Thread(target=self._look, name="other processes", daemon=True).start()

    @property
    def is_first_left(self) -> bool:
        """True in the process of the lowest number among those that live."""
        return self._index == min(set(range(self._count)) - self.lost)

    def describe(self) -> str:
        """Says which processes have died."""
        numbers = [str(number) for number in sorted(self.lost)]
        which = f"process {numbers[0]}" if len(numbers) == 1 else f"processes {', '.join(numbers)}"
        return f"{which} of {self._count} died"

    def finished(self) -> None:
        """Notes that the run has its results: the death of a process is no error for the first one any more."""
        self._finished = self._index == 0

    def check(self) -> None:
        """Raises ProcessLost if a process has died."""
        if self._told.is_set():
            raise self.error()

    def error(self, then: str = "") -> ProcessLost:
        """Returns the error that says which processes have died, and that the same command goes on."""
        self._line = f"{self.describe()}; {then or 'the same command goes on'}"
        return ProcessLost(self._line)

    def explains(self, error: BaseException) -> bool:
        """Tells if an error came from the death of a process; waits until the runtime tells who died."""
        together = isinstance(error, ProcessLost) or TOGETHER.search(f"{type(error).__name__} {error}")
        if not together or not self._told.wait(UNTIL_TOLD):
            return False
        self._taken.set()
        return True

    def leave_note(self, line: str) -> None:
        """Lets the other processes end too, because of an error in this one; returns when they may have read it.

        If all have errors at the same time, as for a wrong option, each tells its own.
        """
        self._line = line
        self._ending.set()

        def leave() -> None:
            with suppress(Exception):  # the first process, which keeps the notes, may be gone
                self._client.key_value_set(f"{NOTES}{self._index}", line)
                while len(self._client.key_value_dir_get(NOTES)) < self._count:
                    time.sleep(LOOK / 10)

        thread = threading.Thread(target=leave, daemon=True)
        thread.start()
        thread.join(UNTIL_READ)

    def _look(self) -> None:
        """Ends this process if another one has left a note."""
        while not self._ending.wait(LOOK):
            try:
                notes = self._client.key_value_dir_get(NOTES)
            except Exception:  # the first process is gone, which the runtime tells
                return
            others = [(name.removeprefix(NOTES), line) for name, line in notes]
            if others and not self._ending.is_set():
                number, line = min(others)
                time.sleep(0 if self._index else 2 * LOOK)  # the first process keeps the notes
                _end(f"process {number} of {self._count} ended with an error, and so does this one: {line}", 2)

    def take(self, line: str) -> str:
        """Takes a line that C or C++ prints on stderr; returns what is to be shown of it."""
        if start := FROM_ABSL.match(line):
            self._hidden = bool(OF_THE_RUNTIME.search(start[1]))
        if not self._hidden:
            return line
        self._noise = (self._noise + line)[-20_000:]
        if FATAL in line:
            self._fatal.set()
        return ""

    def aborted(self) -> None:
        """Handles the runtime's abort, in the thread that aborts: the main thread may save, then the process ends.

        Returns only if something else has aborted.
        """
        if not self._fatal.wait(1):
            return
        time.sleep(0.2)  # the names of those that died stand behind
        found = DEAD.findall(self._noise)
        # Who cannot reach the first process is told of nobody else.
        self.lost = frozenset(int(number) for number in found[-1].split()) if found else frozenset({0})
        self._told.set()
        if self._finished:
            os._exit(0)
        if self._ending.is_set():  # the others have read this process's note, and are gone
            time.sleep(UNTIL_READ)
            _end(self._line, 2)
        if self._taken.wait(UNTIL_TAKEN):
            time.sleep(UNTIL_SAVED)  # the main thread ends the process meanwhile
        else:
            thread = threading.Thread(target=self.save, daemon=True)
            thread.start()
            thread.join(UNTIL_SAVED)
        _end(self._line or str(self.error()), EXIT_CODE)


_watch: Watch | None = None
_kept: list[Any] = []  # what C holds a pointer to


def watched() -> Watch | None:
    """Returns the watch of this process; None if it trains alone, or was joined to others by other means."""
    return _watch


def check_processes() -> None:
    """Raises ProcessLost if a process that trains together with this one has died."""
    if _watch is not None:
        _watch.check()


def watch(*, show_all: bool = False) -> None:
    """Watches the other processes from here on; call it when `jax.distributed.initialize` has connected them.

    Args:
        show_all: show also what JAX's runtime prints of a process that has died.
    """
    global _watch
    from jax._src.distributed import global_state  # JAX offers the store of texts to libraries in this place alone

    if global_state.num_processes < 2 or _watch is not None:
        return
    _watch = Watch(global_state.process_id, global_state.num_processes, global_state.client)
    if not _filter_stderr_of_c(_watch.take, show_all):
        return
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p

    def on_abort(number: int) -> None:
        if _watch is not None:
            _watch.aborted()
        libc.signal(signal.SIGABRT, None)  # the default: the process ends

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    _kept.append(handler)
    libc.signal(int(signal.SIGABRT), handler)


def _filter_stderr_of_c(take: Callable[[str], str], show_all: bool) -> bool:
    """Leads C's stream `stderr` through `take`; Python's own, and its descriptor, stay as they are.

    Returns False where the C library does not allow it.
    """
    libc = ctypes.CDLL(None)
    try:
        stream = ctypes.c_void_p.in_dll(libc, "stderr")
    except ValueError:  # macOS calls it otherwise
        return False
    out, into = os.pipe()
    libc.fdopen.restype = ctypes.c_void_p
    made = libc.fdopen(into, b"w")
    libc.setvbuf(ctypes.c_void_p(made), None, 2, 0)  # _IONBF

    def read() -> None:
        with os.fdopen(out, "rb", buffering=0) as pipe:
            rest = b""
            while data := pipe.read(2**16):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    text = f"{line.decode(errors='replace')}\n"
                    shown = take(text) or (text if show_all else "")
                    with suppress(OSError):
                        os.write(2, shown.encode())

    threading.Thread(target=read, name="stderr of C", daemon=True).start()
    stream.value = made
    return True


def _end(line: str, code: int) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"{visible(line)}\n".encode())
    os._exit(code)
