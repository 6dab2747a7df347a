"""Checkpoints: how many stay, when they are written, and what is on the disk before an older one goes."""

import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common_flax import files
from common_flax.check_sums import damage
from training_flax import TrainConfig, fit, plan
from training_flax.learn.state import TrainState
from training_flax.run import checkpoints as module
from training_flax.run.checkpoints import Checkpoints, Progress
from training_flax.run.folder import checkpoint_steps
from training_flax.run.loop import SHARE_OF_CHECKPOINTS, Loop
from training_flax.runtime.signals import DUE, GO_ON, SAVE, RunError

SMALL = dict(arch="resnet20", width=2, data="fake:8x8x3:4:32", batch_size=16, augment=())


def state(step):
    params = {"kernel": jnp.full((3, 4), step, jnp.float32)}
    count = jnp.asarray(step, jnp.int32)
    return TrainState(
        count, params, {}, optax.sgd(0.1, 0.9).init(params), jax.random.key(step), None, None, count, count
    )


def by_shape(values):
    """Shapes, types and shardings of a state."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), values)


def saved(run, steps, best, mark="a", lengths=(9,)):
    """Saves checkpoints of `steps`, of which that of `best` is the best."""
    checkpoints = Checkpoints(run, mark, lengths)
    for step in steps:
        checkpoints.save(step, state(step), Progress(best_step=best if step >= best else 0, lines=step))
    checkpoints.close()


def test_the_newest_three_and_the_best_stay(tmp_path):
    saved(tmp_path, range(1, 8), best=2)
    assert checkpoint_steps(tmp_path) == [2, 5, 6, 7]
    assert not list(tmp_path.rglob("*unfinished*"))
    assert all(damage(tmp_path / "checkpoints" / str(step)) is None for step in (2, 5, 6, 7))


def test_the_state_comes_back(tmp_path):
    saved(tmp_path, [3], best=3)
    step, restored, progress, lines = Checkpoints(tmp_path, "a", [9]).newest(by_shape(state(0)))
    assert (step, progress, lines) == (3, Progress(best_step=3, lines=3), [])
    np.testing.assert_array_equal(restored.params["kernel"], state(3).params["kernel"])
    np.testing.assert_array_equal(jax.random.key_data(restored.key), jax.random.key_data(state(3).key))


def test_an_older_checkpoint_goes_only_after_the_newer_one_is_on_the_disk(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(module, "sync_tree", lambda folder: done.append(f"sync {folder.name}"))
    monkeypatch.setattr(module, "sync", lambda path: done.append(f"sync {path.name}"))
    removed = Checkpoints._remove
    monkeypatch.setattr(Checkpoints, "_remove", lambda self, step: (done.append(f"remove {step}"), removed(self, step)))
    saved(tmp_path, range(1, 5), best=4)
    assert done[-3:] == ["sync 4.unfinished", "sync checkpoints", "remove 1"]


def test_metrics_are_on_the_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    steps = []
    monkeypatch.setattr(module, "sync", lambda path: steps.append((path.name, checkpoint_steps(tmp_path))))
    saved(tmp_path, [1], best=1)
    assert steps == [("metrics.jsonl", []), ("checkpoints", [1])]


@pytest.mark.parametrize(("mark", "lengths", "fits"), [("a", [9], 1), ("a", [9, 12], 1), ("b", [9], 0), ("a", [12], 0)])
def test_a_checkpoint_of_another_run_is_refused(mark, lengths, fits, tmp_path):
    """A run of another length has other learning rates, unless it was extended from this one."""
    saved(tmp_path, [1], best=1, mark="a", lengths=[9])
    checkpoints = Checkpoints(tmp_path, mark, lengths)
    if fits:
        assert checkpoints.newest(by_shape(state(0)))[0] == 1
        return
    with pytest.raises(RunError, match=r"checkpoint 1 in .* belongs to another run; move it away"):
        checkpoints.newest(by_shape(state(0)))


@pytest.mark.parametrize(
    ("steps", "damaged", "left"),
    [
        ([], [], "no checkpoint is left"),
        ([1, 2], [], "those before it are whole: 1, 2"),
        ([1, 2], [2], "those before it are whole: 1"),
        ([1], [1], "no checkpoint is left"),
    ],
)
def test_an_error_counts_the_whole_checkpoints(steps, damaged, left, tmp_path, monkeypatch):
    saved(tmp_path, steps, best=0)
    for step in damaged:
        (tmp_path / "checkpoints" / str(step) / "state" / "_METADATA").write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, "a", [9])

    def failing(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "sync_tree", failing)
    checkpoints.save(9, state(9), Progress())
    with pytest.raises(RunError) as error:
        checkpoints.close()
    assert str(error.value) == (
        f"a checkpoint could not be written to {tmp_path}: OSError: [Errno 5] Input/output error; {left}"
    )


def test_after_an_error_of_removing_the_run_goes_on(tmp_path, monkeypatch):
    """The checkpoint that could not be removed is removed at the next start, or stays as one more."""

    def failing(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "remove", failing)
    saved(tmp_path, range(1, 6), best=5)
    assert checkpoint_steps(tmp_path) == [3, 4, 5]
    monkeypatch.undo()
    Checkpoints(tmp_path, "a", [9])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4", "5"]


@pytest.mark.parametrize(
    ("passed", "seconds", "expected"),
    [(1.0, 0.0, DUE), (1.0, 0.01, DUE), (1.0, 0.03, GO_ON), (9.0, 20.0, GO_ON), (11.0, 20.0, DUE), (601.0, 20.0, SAVE)],
)
def test_checkpoints_take_a_fiftieth_of_the_time_or_come_after_ten_seconds(passed, seconds, expected, monkeypatch):
    assert SHARE_OF_CHECKPOINTS == 1 / 50
    monkeypatch.setattr("time.monotonic", lambda: passed)
    loop = SimpleNamespace(
        stop=SimpleNamespace(stop_signal=GO_ON),
        saved_at=0.0,
        checkpoints=SimpleNamespace(seconds=seconds),
        job=SimpleNamespace(config=SimpleNamespace(checkpoint_minutes=10.0)),
    )
    assert Loop.stop_signal(loop) == expected


def test_a_checkpoint_that_is_being_written_counts_with_its_time_so_far(tmp_path, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(module, "sync_tree", lambda folder: (entered.set(), go_on.wait(30)))
    checkpoints = Checkpoints(tmp_path, "a", [9])
    checkpoints.save(1, state(1), Progress())
    assert entered.wait(30)
    before = checkpoints.seconds
    assert checkpoints.seconds > before > 0
    go_on.set()
    checkpoints.close()
    assert checkpoints.seconds == checkpoints.seconds


def test_a_run_that_is_moved_while_a_checkpoint_is_written_is_not_made_anew(tmp_path):
    (tmp_path / "run").mkdir()
    saved(tmp_path / "run", [1], best=1)
    checkpoints = Checkpoints(tmp_path / "run", "a", [9])
    saving = checkpoints._saver.save

    def moving(*args, **options):
        (tmp_path / "run").rename(tmp_path / "moved")
        saving(*args, **options)

    checkpoints._saver.save = moving
    checkpoints.save(2, state(2), Progress())
    with pytest.raises(RunError, match="it was moved or removed meanwhile"):
        checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    assert checkpoint_steps(tmp_path / "moved") == [1]


def test_a_checkpoint_whose_writing_was_interrupted_is_written_again(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "a", [9])

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._saver, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, state(2), Progress())
    checkpoints.save(2, state(2), Progress())
    checkpoints.close()
    assert damage(tmp_path / "checkpoints" / "2") is None


@pytest.mark.slow
def test_a_longer_run_keeps_its_mark_and_other_options_have_another(tmp_path):
    fit(TrainConfig(**SMALL, steps=2, out=tmp_path / "run"), quiet=True)
    mark = plan(TrainConfig(**SMALL, steps=2, out=tmp_path / "run")).mark
    longer = plan(TrainConfig(**SMALL, steps=4, out=tmp_path / "run"), extend=True)
    assert (longer.mark, longer.lengths) == (mark, (2, 4))
    assert plan(TrainConfig(**SMALL, steps=2, out=tmp_path / "new")).mark == mark
    assert plan(TrainConfig(**SMALL, steps=4, out=tmp_path / "new")).lengths == (4,)
    assert plan(TrainConfig(**SMALL, steps=2, seed=1, out=tmp_path / "new")).mark != mark
    assert len(mark) == 16


def test_folders_are_on_the_disk_with_all_their_new_parents(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append(path))
    files.make_folder(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
