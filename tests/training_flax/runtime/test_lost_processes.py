"""Two processes that train together, one of which dies or has an error: the other ends soon, in one line."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training_flax.runtime.lost_processes import TOGETHER, Watch

ROOT = Path(__file__).parents[3]
OPTIONS = ["--arch", "resnet8", "--width", "2", "--data", "fake:8x8x3:4:64", "--batch-size", "16", "--steps", "8"]
OPTIONS += ["--ema", "0.5", "--recipe", "quick-digits"]
WEIGHTS = ("model.safetensors", "model_ema.safetensors")


def train(out, **moments):
    """Runs two processes; returns the exit code and stderr of each, and the seconds between their ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    clean = {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    processes = []
    for index in range(2):
        words = [moments.get(f"process{index}", "none"), *OPTIONS, "--out", str(out), "--coordinator", address]
        words += ["--num-processes", "2", "--process-id", str(index)]
        command = [sys.executable, "-W", "error", str(ROOT / "tests" / "helpers" / "dying_process.py"), *words]
        pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=clean | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}, **pipes)
        )
    while all(process.poll() is None for process in processes):
        time.sleep(0.05)
    start = time.monotonic()
    said = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], said, time.monotonic() - start


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run whose processes both live."""
    out = tmp_path_factory.mktemp("whole") / "run"
    codes, said, _ = train(out)
    assert (codes, said) == ([0, 0], ["", ""])
    return [(out / name).read_bytes() for name in WEIGHTS]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("moment", "saved"),
    [
        ("step:2", ()),  # before the first checkpoint
        ("step:6", ("4",)),
        ("evaluation:9", ("4",)),
        ("checkpoint:1", ()),
    ],
)
def test_the_other_process_ends_and_the_same_command_goes_on(victim, moment, saved, whole, tmp_path):
    out, other = tmp_path / "run", 1 - victim
    codes, said, seconds = train(out, **{f"process{victim}": moment})
    assert codes[victim] == -9
    assert codes[other] == 75
    assert said[victim] == ""
    assert f"process {victim} of 2 died; " in said[other]
    assert said[other].endswith("the same command goes on\n")
    assert said[other].count("\n") == 1
    assert seconds < 20
    there = {path.name for path in (out / "checkpoints").iterdir()}
    if moment == "evaluation:9":  # the state of the epoch's end is whole in each process
        assert "the state after step 4 is saved" in said[other]
        assert there >= set(saved)
    codes, said, _ = train(out)
    assert (codes, said) == ([0, 0], ["", ""])
    assert [(out / name).read_bytes() for name in WEIGHTS] == whole


@pytest.mark.slow
def test_the_other_process_ends_where_the_first_dies_over_its_results(whole, tmp_path):
    codes, said, seconds = train(tmp_path / "run", process0="results:1")
    assert codes == [-9, 75]
    assert said == ["", "process 0 of 2 died; the state after step 8 is saved; the same command goes on\n"]
    assert seconds < 20
    assert train(tmp_path / "run")[0] == [0, 0]
    assert [(tmp_path / "run" / name).read_bytes() for name in WEIGHTS] == whole


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_process_ends_the_other_with_its_words(failing, tmp_path):
    codes, said, seconds = train(tmp_path / "run", **{f"process{failing}": "error:3"})
    assert codes == [2, 2]
    assert said[failing] == "train.py: error: a fault of its own\n"
    told = f"process {failing} of 2 ended with an error, and so does this one: a fault of its own\n"
    assert said[1 - failing] == told
    assert seconds < 20


HEAD = "E1130 03:50:39.885165   12768 coordination_service.cc:1549] [87] Use error polling: UNAVAILABLE: "
LATER = "F1130 03:49:22.069786   11793 client.h:80] Terminating process because the JAX distributed service detected "


class NoStore:
    def key_value_dir_get(self, _):
        raise RuntimeError("the first process is gone")


@pytest.mark.parametrize(
    ("told", "lost", "words"),
    [
        (f"{HEAD}The following tasks are unhealthy (stopped sending heartbeats):\n1\n", {1}, "process 1 of 4 died"),
        (
            f"{HEAD}The following tasks are unhealthy (stopped sending heartbeats):\n1\n3\nThe tasks have crashed.\n",
            {1, 3},
            "processes 1, 3 of 4 died",
        ),
        ("", {0}, "process 0 of 4 died"),
    ],
)
def test_the_lines_of_the_runtime_tell_who_died(told, lost, words, monkeypatch):
    ends = []
    monkeypatch.setattr("os._exit", ends.append)
    monkeypatch.setattr("os.write", lambda _, text: ends.append(text.decode()))
    watch = Watch(2, 4, NoStore())
    watch._taken.set()
    monkeypatch.setattr("training_flax.runtime.lost_processes.UNTIL_SAVED", 0)
    lines = [*told.splitlines(True), f"{LATER}fatal errors.\n", "*** Check failure stack trace: ***\n", "    @ 0x7f1\n"]
    assert "".join(map(watch.take, lines)) == ""
    watch.aborted()
    assert watch.lost == lost
    assert ends == [f"{words}; the same command goes on\n", 75]


@pytest.mark.parametrize(("lost", "first"), [({0}, 1), ({1}, 0), ({0, 1}, 2)])
def test_the_lowest_process_that_lives_saves(lost, first):
    watches = [Watch(index, 4, NoStore()) for index in range(4)]
    for watch in watches:
        watch.lost = frozenset(lost)
    assert [watch.is_first_left for watch in watches].index(True) == first


def test_other_lines_are_shown():
    watch = Watch(0, 2, NoStore())
    lines = ["W1130 03:51:00.235056   12966 cpu_aot_loader.cc:210] features\n", "host:1:2 NCCL WARN slow\n"]
    assert [watch.take(line) for line in lines] == lines
    watch.check()


def test_an_abort_of_something_else_is_left_alone():
    watch = Watch(0, 2, NoStore())
    watch.take("free(): invalid pointer\n")
    watch.aborted()
    assert watch.lost == frozenset()


@pytest.mark.parametrize(
    ("message", "together"),
    [
        ("UNKNOWN: Gloo all-reduce failed: [pair.cc:538] Read error [127.0.0.1]:22931: Connection reset by peer", True),
        ("INTERNAL: NCCL operation ncclGroupEnd() failed: unhandled system error", True),
        ("UNAVAILABLE: failed to connect to all addresses", True),
        ("Timeout waiting at barrier 'x'", True),
        ("batch_size must be a multiple of 2, for 2 devices; given 3", False),
        ("'data/a.png': No such file or directory", False),
    ],
)
def test_only_errors_of_common_operations_wait_for_the_runtime(message, together):
    assert bool(TOGETHER.search(message)) == together
