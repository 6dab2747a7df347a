"""The folder of a run: its lock, folders that may not be entered, and clocks that do not go on."""

import errno
import fcntl
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from training_flax import TrainConfig, plan
from training_flax.run import folder
from training_flax.run.folder import locked, read_config, write_config

CONFIG = TrainConfig("resnet20", width=4, data="fake:8x8x3:4:64", batch_size=16, steps=4)


def test_a_lock_is_held_until_its_end_and_not_by_children(tmp_path):
    with locked(tmp_path / "run"):
        code, pipes = "print(flush=True); input()", dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child = subprocess.Popen([sys.executable, "-c", code], close_fds=False, **pipes)
        child.stdout.readline()  # it has closed what it does not inherit
        with pytest.raises(ValueError, match=r"is in use by another process that trains$"), locked(tmp_path / "run"):
            pass
    with locked(tmp_path / "run"):  # the child still runs
        assert child.poll() is None
    child.communicate(b"\n")


def test_a_stale_lock_does_not_lock(tmp_path):
    (tmp_path / ".lock").write_text("4711")
    with locked(tmp_path):
        pass


def test_a_lock_that_is_a_link_leaves_its_target(tmp_path):
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "letter")
    with locked(tmp_path / "run"):
        pass
    assert (tmp_path / "letter").read_text() == "dear"


def test_a_lock_that_is_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks_do_without(code, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        pass


def test_other_errors_of_locks_are_told(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path):
        pass


def test_a_run_that_began_meanwhile_is_not_overwritten(tmp_path):
    """Two commands find a folder empty; the second gets the lock after the first has ended."""
    first, second = (plan(replace(CONFIG, seed=seed, out=tmp_path)) for seed in (0, 1))
    write_config(tmp_path, first.config, first.dataset, first.mark)
    with pytest.raises(ValueError, match=r"holds another run, which has begun meanwhile; name a new folder$"):
        write_config(tmp_path, second.config, second.dataset, second.mark)
    assert read_config(tmp_path)["seed"] == 0


@pytest.mark.parametrize("out", ["shut", "shut/run"])
def test_a_folder_that_may_not_be_entered_is_refused(out, tmp_path, monkeypatch):
    def refuse(*arguments, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(arguments[0]))

    (tmp_path / "shut").mkdir(mode=0)
    if os.access(tmp_path / "shut", os.R_OK):  # root may enter any
        monkeypatch.setattr(folder, "_check_folder", refuse)
    with pytest.raises(ValueError, match=r"cannot be (read: Permission denied|made: .* may be written to)$"):
        plan(replace(CONFIG, out=tmp_path / out))


def test_a_clock_that_stands_still_names_as_many_runs_as_are_wanted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    job = plan(CONFIG)
    for number in range(1, 1100):
        (tmp_path / "runs" / f"resnet20-fake-now{f'-{number}' * (number > 1)}").mkdir(parents=True)
    assert folder.run_path(replace(job.config, out=None), job.dataset).name == "resnet20-fake-now-1100"
