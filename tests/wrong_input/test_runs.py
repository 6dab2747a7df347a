"""Folders of runs that are damaged, finished, or of another run: one line, and nothing is lost."""

import errno
import fcntl
import os
import shutil
import sys
from pathlib import Path

import pytest

from common_flax import files
from training_flax import restore

sys.path.insert(0, str(Path(__file__).parent.parent))
from command_line import FOUR, SIX, contents, flip, halve, largest, refused, unfinished

WORLDS = {
    "another run": (
        lambda run: None,
        ["--lr", "0.3", "--seed", "3", *FOUR],
        "out 'run' holds another run, which differs in lr (0.05 there, 0.3 now), seed (0 there, 3 now)",
    ),
    "longer, not asked for": (
        lambda run: None,
        ["--steps", "6", "--out", "run"],
        "out 'run' holds another run, which differs in steps (4 there, 6 now); --extend makes a run longer",
    ),
    "shorter": (
        lambda run: None,
        ["--steps", "2", "--extend", "--out", "run"],
        "extend makes a run longer; it has 4 steps; given 2 steps",
    ),
    "no config": (
        lambda run: (run / "config.json").unlink(),
        FOUR,
        "out 'run' is not empty, and holds no run to go on with; name a new folder",
    ),
    "half a config": (
        lambda run: halve(run / "config.json"),
        FOUR,
        "out 'run' has a damaged config.json; name a new folder",
    ),
    "config of something else": (
        lambda run: (run / "config.json").write_text("[]"),
        FOUR,
        "out 'run' has a damaged config.json; name a new folder",
    ),
    "weights of a larger network": (
        lambda run: None,
        ["--arch", "resnet32", "--weights", "run"],
        "weights 'run/model.safetensors' are not those of resnet32: state dict does not fit the model; missing: ",
    ),
    "weights of other classes": (
        lambda run: None,
        ["--weights", "run", "--data", "fake:32x32x3:7"],
        "weights 'run/model.safetensors' have 10 classes, the model has 7; --num-classes 7 draws the classifier anew",
    ),
    "half the weights": (
        lambda run: halve(run / "model.safetensors"),
        ["--weights", "run/model.safetensors"],
        "weights 'run/model.safetensors' cannot be read: Error while deserializing header: ",
    ),
    "half the weights, to evaluate": (
        lambda run: halve(run / "model.safetensors"),
        ["--eval-only", "--out", "run"],
        "weights 'run/model.safetensors' cannot be read: Error while deserializing header: ",
    ),
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_folder_that_is_not_this_run_stays_as_it_is(world, here, run, door):
    change, arguments, message = WORLDS[world]
    change(run)
    before = contents(here)
    assert refused(door, *arguments).startswith(message)
    assert contents(here) == before


def test_a_finished_run_says_so_and_changes_nothing(here, run, door):
    before = contents(here)
    assert door(*FOUR) == (0, "run is finished: 4 steps; its results are in summary.json\n", "")
    assert contents(here) == before


def test_a_second_process_is_refused(here, run, door):
    unfinished(run)
    before = contents(here)
    with (run / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert refused(door, *FOUR) == "out 'run' is in use by another process that trains"
    assert contents(here) == before


def test_a_run_is_made_longer(run, door):
    code, out, err = door(*SIX)
    assert (code, err) == (0, "")
    assert "going on after step 4 of 6" in out


@pytest.mark.parametrize("harm", [halve, flip, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over(harm, run, door):
    whole = (run / "model.safetensors").read_bytes()
    unfinished(run)
    file = largest(run / "checkpoints" / "4")
    harm(file)
    code, out, err = door(*FOUR)
    assert (code, err) == (0, "")
    name = file.relative_to(run / "checkpoints" / "4")
    what = "is missing" if harm is Path.unlink else "is not what was written"
    assert f"checkpoint 4 is damaged and passed over: its file {name} {what}\ngoing on after step 2 of 4\n" in out
    assert (run / "model.safetensors").read_bytes() == whole


def test_only_damaged_checkpoints_are_not_gone_on_from(run, door):
    unfinished(run)
    for step in "24":
        flip(largest(run / "checkpoints" / step))
    weights = (run / "model.safetensors").read_bytes()
    message = refused(door, *FOUR)
    assert message.startswith("no checkpoint in run is whole; checkpoint 4 is damaged and passed over: its file state/")
    assert (run / "model.safetensors").read_bytes() == weights
    assert not (run / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "model.safetensors", "confusion.png", "summary.json"])
def test_a_file_that_cannot_be_written_is_named(name, run, door, monkeypatch):
    """A disk that fails while a file is synced leaves the file as it was, and a run that goes on."""
    unfinished(run)
    before = contents(run)

    def failing(path):
        if Path(path).name.startswith(f"{name}."):
            raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", failing)
        message = refused(door, *FOUR)
    assert message.startswith("run 'run' cannot be written or read: [Errno 5] Input/output error: '/")
    assert f"/{name}." in message
    assert contents(run).keys() <= before.keys() | {"summary.json"}
    assert door(*FOUR)[0] == 0


UNREADABLE = {
    "a folder": (
        lambda path: (path.unlink(), path.mkdir()),
        "run 'run' cannot be written or read: [Errno 21] Is a directory: 'run/metrics.jsonl'",
    ),
    "a broken line": (
        lambda path: path.write_bytes(b"\xff{\n"),
        "line 1 of 'run/metrics.jsonl' is damaged; without it and all lines after it the run can go on",
    ),
    "another number": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"loss": ', b'"loss": 1', 1)),
        "line 1 of 'run/metrics.jsonl' is damaged; without it and all lines after it the run can go on",
    ),
}


@pytest.mark.parametrize("harm", UNREADABLE)
def test_metrics_that_cannot_be_read_are_named(harm, run, door):
    change, message = UNREADABLE[harm]
    unfinished(run)
    change(run / "metrics.jsonl")
    assert refused(door, *FOUR).startswith(message)
    restore(run)


def empty(path):
    path.write_bytes(b"")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


RESULTS = {
    "model.safetensors": (halve, flip, Path.unlink, empty, pipe),
    "summary.json": (halve, flip, Path.unlink, empty, pipe),
    **dict.fromkeys(("batch.png", "curves.png", "confusion.png"), (halve, Path.unlink, empty, pipe)),
}


@pytest.mark.parametrize(("name", "harm"), [(name, harm) for name, harms in RESULTS.items() for harm in harms])
def test_broken_results_of_a_finished_run_are_written_anew(name, harm, run, door):
    whole = (run / "model.safetensors").read_bytes()
    harm(run / name)
    code, out, err = door(*FOUR)
    assert (code, err) == (0, "")
    if name != "summary.json":  # without a summary the run is not finished
        assert f"run is finished, but these are missing or damaged, and written anew: {name}\n" in out
    assert "going on after step 4 of 4" in out
    assert (run / "model.safetensors").read_bytes() == whole
    assert "run is finished: 4 steps" in door(*FOUR)[1]


def test_without_a_checkpoint_broken_results_are_named_and_nothing_is_trained_again(run, door):
    flip(run / "model.safetensors")
    shutil.rmtree(run / "checkpoints")
    expected = "run is finished, but has no checkpoint to write model.safetensors from, missing or damaged"
    assert refused(door, *FOUR) == expected


def test_a_finished_run_without_checkpoints_is_not_trained_anew_to_be_longer(run, door):
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    assert refused(door, *SIX) == "run is finished, after 4 steps, but has no checkpoint to go on from"
    assert contents(run) == before


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(here, run, door):
    assert door("--seed", "1", "--steps", "4", "--out", "other")[0] == 0
    unfinished(run)
    shutil.rmtree(run / "checkpoints" / "4")
    shutil.copytree(here / "other" / "checkpoints" / "4", run / "checkpoints" / "4")
    before = contents(run / "checkpoints")
    assert refused(door, *FOUR) == "checkpoint 4 in run belongs to another run; move it away"
    assert contents(run / "checkpoints") == before


def test_lines_of_metrics_that_are_lost_are_told(run, door):
    unfinished(run)
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    code, out, err = door(*FOUR)
    assert (code, err) == (0, "")
    assert f"metrics.jsonl has lost {len(lines) - 1} of the {len(lines)} lines before" in out
