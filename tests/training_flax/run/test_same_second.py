"""Runs that begin in one folder, or in the same second, at the same time."""

import sys

import pytest

from training_flax import TrainConfig, plan
from training_flax.fit import fit
from training_flax.run.folder import InUse, locked

FIT = sys.modules["training_flax.fit"]


def config(out=None, seed=0):
    return TrainConfig("resnet20", width=4, data="fake:8x8x3:4:32", batch_size=16, steps=2, out=out, seed=seed)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The folders of runs that got past the lock; a run ends there."""
    monkeypatch.chdir(tmp_path)
    runs = []
    monkeypatch.setattr(FIT, "_run", lambda job, terminal, stop, *stopped_by: runs.append(job.run))
    return runs


def test_runs_of_the_same_second_get_folders_of_their_own(begun):
    jobs = [plan(config(seed=seed)) for seed in range(3)]
    run = jobs[0].run
    jobs = [job.__class__(**vars(job) | {"run": run}) for job in jobs]  # all were planned before any began
    with locked(run):
        fit(jobs[1], quiet=True)
        assert begun[0] != run
        assert begun[0].parent == run.parent
        with locked(begun[0]):
            fit(jobs[2], quiet=True)
    assert len({run, *begun}) == 3


def test_a_folder_that_was_named_and_is_in_use_is_refused(begun, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(InUse, match="in use by another process that trains"):
        fit(config(tmp_path / "run"), quiet=True)
    assert begun == []
