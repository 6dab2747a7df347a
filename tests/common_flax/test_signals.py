"""Signals reach a command from its first import to its end, each of them once, and end it in one line."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import common_flax.signals
from common_flax.signals import STOP, StopRequest, handled, stop_on_signals

ROOT = Path(__file__).parents[2]
FATAL = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def ends(monkeypatch):
    """Has the end of the process raise Ended, with the exit code."""

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)


def test_before_the_first_step_a_signal_ends_the_process(ends, capfd):
    with pytest.raises(Ended, match="143"):
        StopRequest().receive(signal.SIGTERM, None)
    assert capfd.readouterr().err == "SIGTERM before the first step; there is nothing to save\n"


def test_the_first_signal_asks_and_the_second_does_not_wait(ends, capfd):
    request = StopRequest()
    request.armed = True
    request.receive(signal.SIGHUP, None)
    assert request.stop_signal == STOP + signal.SIGHUP
    assert capfd.readouterr().err == ""
    with pytest.raises(Ended, match="130"):
        request.receive(signal.SIGINT, None)
    assert capfd.readouterr().err == "SIGINT again; not waiting\n"
    assert request.stop_signal == STOP + signal.SIGHUP


@pytest.mark.parametrize("number", FATAL)
def test_signals_that_would_end_the_process_ask(number):
    with handled(signal.SIG_DFL, number):
        with stop_on_signals() as request:
            request.armed = True
            signal.raise_signal(number)
            assert request.stop_signal == STOP + number
        assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", FATAL[2:])
def test_what_nohup_ignores_stays_ignored(number):
    with handled(signal.SIG_IGN, number), stop_on_signals() as request:
        assert signal.getsignal(number) is signal.SIG_IGN
        signal.raise_signal(number)
        assert request.stop_signal == 0


def test_each_signal_counts_once():
    """The thread that watches for signals comes after the handler, and does not take them for second ones."""
    with stop_on_signals() as request:
        request.armed = True
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            request.stop_signal = 0
            signal.raise_signal(number)
            time.sleep(1.5 * common_flax.signals.PATIENCE)
            assert request.stop_signal == STOP + number


def test_the_event_loop_of_others_keeps_its_descriptor():
    out, into = os.pipe()
    os.set_blocking(into, False)
    before = signal.set_wakeup_fd(into)
    try:
        with stop_on_signals() as request:
            request.armed = True
            signal.raise_signal(signal.SIGTERM)
            assert request.stop_signal == STOP + signal.SIGTERM
        assert os.read(out, 1) == bytes([signal.SIGTERM])
    finally:
        assert signal.set_wakeup_fd(before) == into
        os.close(out)
        os.close(into)


def test_nothing_is_left_behind():
    threads, descriptors = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    with stop_on_signals():
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert signal.set_wakeup_fd(-1) == -1


def python(code, **options):
    """Starts Python with a program that uses `common_flax.signals`."""
    command = [sys.executable, "-W", "error", "-c", f"import sys, time\nfrom common_flax.signals import *\n{code}"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        command, cwd=ROOT, env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


BUSY = """
import hashlib
with stop_on_signals() as stop:
    stop.armed = True
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
"""


@pytest.mark.parametrize("gap", [0.1, 0.4])  # the kernel makes one of two that come at once
def test_a_second_signal_ends_a_process_whose_main_thread_is_inside_of_a_library(gap):
    process = python(BUSY)
    process.stdout.readline()
    start = time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(gap)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "SIGINT again; not waiting\n")
    assert time.monotonic() - start < 5


LEAVING = """
import atexit
atexit.register(lambda: (print("leaving", flush=True), time.sleep(0.5)))
with stop_on_signals():
    leave(0)
"""


@pytest.mark.parametrize("number", FATAL)
def test_a_signal_at_the_very_end_changes_nothing(number):
    process = python(LEAVING)
    assert process.stdout.readline() == "leaving\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, "")


HANGING = """
import threading
threading.Thread(target=time.sleep, args=(60,)).start()
print("a line that is in a buffer", end="")
leave(2)
"""


def test_after_an_error_no_thread_is_waited_for():
    process = python(HANGING)
    printed, said = process.communicate(timeout=20)
    assert (process.returncode, printed, said) == (2, "a line that is in a buffer", "")


@pytest.mark.parametrize("code", [0, 2])
def test_a_reader_that_has_gone_is_no_error(code):
    process = python(f"sys.stdin.readline()\nprint('a line that nobody reads')\nleave({code})", stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(20) == code
    with process.stderr:
        assert process.stderr.read() == ""


CLOSED = """
open_standard_streams()
file = open(sys.argv[1] if len(sys.argv) > 1 else "/dev/null")
print(file.fileno())
assert file.fileno() > 2, file.fileno()
print("text", file=sys.stderr)
assert sys.stdin.read() == ""
file.close()
"""


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "<&-", ">&- </dev/null", "2>&- </dev/null"])
def test_no_file_takes_the_place_of_a_closed_stream(closed):
    program = f"import sys\nfrom common_flax.signals import *\n{CLOSED}"
    command = f'exec "$0" -c "$1" {closed}'
    done = subprocess.run(["bash", "-c", command, sys.executable, program], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done


def caught(process):
    """Waits until a process minds SIGTERM: before, it is Python that starts."""
    while process.poll() is None:
        mask = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
        if mask and int(mask[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)


DOORS = {
    "train.py": [str(ROOT / "train.py")],
    **{
        name: ["-m", name]
        for name in (
            *("training_flax", "training_flax.predict", "training_flax.compare", "training_flax.prepare"),
            *("weights_flax", "theory_flax"),
        )
    },
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_modules_are_imported_a_signal_is_one_line(door, number):
    command = [sys.executable, "-W", "error", *DOORS[door], "--help"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    caught(process)
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
    name = signal.Signals(number).name
    before = (
        "before the first step; there is nothing to save" if door == "train.py" else "at the start; nothing is done"
    )
    assert (process.returncode, printed) == (128 + number, "")
    assert re.fullmatch(f"{name} {before}.*\n", said), said


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python", "-m", "training_flax", "--arch", "x"], "training_flax"),
        (["python", "-W", "error", "-m", "theory_flax.x"], "theory_flax.x"),
        (["python", "-Bmweights_flax"], "weights_flax"),
        (["python", "-mpytest", "-m", "slow"], "pytest"),
        (["python", "-m", "pytest", "training_flax"], "pytest"),
    ],
)
def test_the_module_to_run_is_found_in_the_command_line(words, name, monkeypatch):
    first = next(i for i, word in enumerate(words[1:], 1) if name in word)
    monkeypatch.setattr(sys, "orig_argv", words)
    monkeypatch.setattr(sys, "argv", ["-m", *words[first + 1 :]])
    assert common_flax.signals._module_to_run() == name
    before = [signal.getsignal(number) for number in FATAL]
    try:
        common_flax.signals.mind_imports()
        minded = [signal.getsignal(number) for number in FATAL] != before
        common_flax.signals.imported()
        assert [signal.getsignal(number) for number in FATAL] == before
    finally:
        for number, handler in zip(FATAL, before, strict=True):
            signal.signal(number, handler)
    assert minded == (name != "pytest")
