"""Full disks, folders that go, and numbers that are not finite, while a run trains."""

import shutil
import sys
from pathlib import Path

import chex
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file, save_file

from training_flax import restore
from training_flax.run.checkpoints import Checkpoints
from training_flax.run.loop import Loop

sys.path.insert(0, str(Path(__file__).parent.parent))
from command_line import SIX, contents, refused


def no_room_for_orbax(monkeypatch):
    def save(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", save)


def no_room_for_a_file(monkeypatch):
    """Simulates a full disk or quota from the first checkpoint on."""
    resource = pytest.importorskip("resource")
    save = Checkpoints.save
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, *args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            save(self, *args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    monkeypatch.setattr(Checkpoints, "save", limited)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("full", "reason"),
    [
        (no_room_for_orbax, "OSError: [Errno 28] No space left on device"),
        (no_room_for_a_file, "OSError: [Errno 27] File too large"),
    ],
)
def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(full, reason, run, door, monkeypatch):
    with monkeypatch.context() as patch:
        full(patch)
        message = refused(door, *SIX)
    assert message == f"a checkpoint could not be written to run: {reason}; those before it are whole: 2, 4"
    saved = restore(run)[1]
    np.testing.assert_array_equal(saved["params"]["fc"]["kernel"].T, load_file(run / "model.safetensors")["fc.weight"])
    code, out, err = door(*SIX)
    assert (code, err) == (0, "")
    assert "going on after step 4 of 6" in out


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        ("read", "metrics could not be written to run: [Errno 2] No such file or directory: 'run/metrics.jsonl'"),
        ("save", "a checkpoint could not be written to run: FileNotFoundError: "),
    ],
)
def test_a_folder_that_is_removed_while_training_is_told(moment, message, here, run, door, monkeypatch):
    before = getattr(Loop, moment)

    def removing(self, *args, **kwargs):
        shutil.rmtree(run, ignore_errors=True)
        return before(self, *args, **kwargs)

    monkeypatch.setattr(Loop, moment, removing)
    assert refused(door, *SIX).startswith(message)
    assert not contents(here)


@pytest.mark.slow
def test_numbers_that_are_not_finite_stop_the_run_and_leave_finite_weights(here, door):
    """Trains at so high a learning rate that no gradient after the first step is finite."""
    rate = ["--lr", "1e38", "--max-skipped", "3"]
    assert door(*rate, "--steps", "1", "--out", "one")[0] == 0
    message = refused(door, *rate, "--steps", "12", "--out", "run")
    start, where, end = message.split("; ")
    assert start == "3 steps in a row were skipped, for numbers that are not finite"
    # All features are nan. (A mean that is fused with the last ReLU would give 0.)
    back = "the first gradient on the way back from the loss was that of"
    assert where == f"the logits were not finite already, and {back} fc/bias"
    step = int(end.removeprefix("the weights before them are in checkpoint ").removesuffix(" of run"))
    assert [path.name for path in (here / "run" / "checkpoints").iterdir()] == [str(step)]
    found, expected = (restore(here / name)[1] for name in ("run", "one"))
    for kind in ("params", "batch_stats"):
        chex.assert_trees_all_equal(found[kind], expected[kind])
    assert all(np.isfinite(weight).all() for weight in load_file(here / "one" / "model.safetensors").values())


@pytest.mark.slow
def test_of_finite_logits_the_first_gradient_that_is_not_is_named(here, door):
    """The gradient of a kernel before BatchNorm grows as the kernel shrinks, while the logits stay the same."""
    assert door("--steps", "1", "--out", "one")[0] == 0
    weights = load_file(here / "one" / "model.safetensors")
    weights["fc.weight"] *= np.float32(1e37) / np.abs(weights["fc.weight"]).max()
    weights["layer3.2.conv2.weight"] *= np.float32(1e-2)
    save_file(weights, here / "large.safetensors")
    message = refused(door, "--weights", "large.safetensors", "--max-skipped", "3", "--steps", "6", "--out", "run")
    where = "; the first gradient on the way back from the loss was that of layer3_2/conv2/kernel; "
    assert where in message


@pytest.mark.slow
def test_a_run_whose_last_steps_were_skipped_is_not_finished_by_starting_it_again(here, door):
    command = ["--lr", "1e38", "--max-skipped", "3", "--steps", "4", "--out", "run"]
    refused(door, *command)
    assert refused(door, *command) == (
        "the last 3 steps were skipped, for numbers that are not finite; "
        "the weights before them are in checkpoint 4 of run"
    )
    assert not (here / "run" / "summary.json").exists()
