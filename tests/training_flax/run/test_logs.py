"""The logs of a run beside metrics.jsonl."""

import importlib
import signal
from io import BytesIO

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from training_flax import Stopped, StopRequest, TrainConfig, fit, plan
from training_flax.plots.board import Board
from training_flax.run.logs import PROFILED, Logs
from training_flax.run.metrics import read_metrics
from training_flax.runtime.signals import STOP

SMALL = dict(width=4, batch_size=64, augment=(), data="fake:8x8x1:2:128")


def events(file):
    """Reads the events of a TensorBoard file: each is its length in 8 bytes, a check sum, the event, a check sum."""
    data, start = file.read_bytes(), 0
    while start < len(data):
        length = int.from_bytes(data[start : start + 8], "little")
        record = data[start + 12 : start + 12 + length]
        assert int.from_bytes(data[start + 12 + length : start + 16 + length], "little") == masked_crc32c(record)
        yield Event.FromString(record)
        start += 16 + length


def shown(folder):
    """Returns all values that a folder of TensorBoard's tells, in order: (split, tag, step), value and time."""
    return [
        ((file.parent.name, value.tag, event.step), value, event.wall_time)
        for file in sorted(folder.rglob("*tfevents*"))
        for event in events(file)
        for value in event.summary.value
    ]


def scalars(folder):
    """Returns the numbers among them; raises if one is told twice."""
    told = [(place, value.simple_value) for place, value, _ in shown(folder) if not value.HasField("image")]
    assert len(dict(told)) == len(told)
    return dict(told)


def numbers(entries):
    """Returns what TensorBoard should be told of the entries of metrics.jsonl."""
    return {
        (entry["split"], name, entry["step"]): pytest.approx(value, rel=1e-6)
        for entry in entries
        for name, value in entry.items()
        if name not in ("split", "step") and value is not None
    }


class AfterSteps(StopRequest):
    """Asks to stop after three steps were begun: at the second epoch."""

    asked = 0

    @property
    def stop_signal(self):
        self.asked += 1
        return STOP + signal.SIGTERM if self.armed and self.asked > 3 else 0

    @stop_signal.setter
    def stop_signal(self, value):
        pass


@pytest.mark.slow
def test_tensorboard_is_told_what_metrics_jsonl_is_after_a_stop_too(tmp_path):
    """Train and test have the same tags, so that they share a chart, and nothing is told twice."""
    config = TrainConfig("resnet20", steps=6, tensorboard=True, out=tmp_path / "run", **SMALL)
    with pytest.raises(Stopped):
        fit(config, quiet=True, stop=AfterSteps())
    board = tmp_path / "run" / "tensorboard"
    before = {place: time for place, _, time in shown(board)}
    assert {step for _, _, step in before} >= {1, 2}
    run = fit(config, quiet=True).run
    entries = read_metrics(run)
    assert scalars(board) == numbers(entries)
    assert {entry["split"] for entry in entries} == {path.name for path in board.iterdir()} == {"train", "test"}
    assert {"loss", "accuracy"} <= {tag for split, tag, _ in scalars(board) if split == "test"}
    times = {place: time for place, _, time in shown(board)}
    assert all(times[place] == before[place] for place in before.keys() & numbers(entries).keys())
    pictures = {place: value.image for place, value, _ in shown(board) if value.HasField("image")}
    assert pictures.keys() >= {("train", "batch", 0), ("test", "confusion", 6)}
    assert not {name for split, name, _ in pictures if split == "test"} & {"batch", "curves"}
    for (_, name, _), image in pictures.items():
        with Image.open(run / f"{name}.png") as expected, Image.open(BytesIO(image.encoded_image_string)) as found:
            assert found.size == expected.size
            assert found.convert("RGB").tobytes() == expected.convert("RGB").tobytes()


def entry(split, step, **values):
    return {"split": split, "step": step, "epoch": step / 10, **values}


def test_a_board_begins_anew_with_the_entries_that_a_run_has_kept(tmp_path):
    """Files of older versions in one folder, and files that were cut off, give their times and go."""
    import tensorboardX

    old = tensorboardX.SummaryWriter(str(tmp_path))
    old.add_scalar("train/loss", 3.0, 1, 1000.0)
    old.add_scalar("test/loss", 4.0, 1, 1001.0)
    old.close()
    kept = [entry("train", 1, loss=3.0), entry("test", 1, loss=4.0), entry("train", 2, loss=None)]
    for _ in range(2):
        board = Board(tmp_path)
        board.begin(kept)
        board.add(entry("train", 3, loss=2.0))
        board.close()
        assert scalars(tmp_path) == numbers([*kept, entry("train", 3, loss=2.0)])
        times = {place: time for place, _, time in shown(tmp_path)}
        assert times["train", "loss", 1] == 1000.0
        assert times["test", "loss", 1] == 1001.0
        assert not list(tmp_path.glob("*tfevents*"))
        [file] = (tmp_path / "train").iterdir()
        file.write_bytes(file.read_bytes()[:-7])  # a loss of power
    board.picture("test", tmp_path / "none.png", 1)
    board.close()


@pytest.mark.parametrize(
    ("options", "library", "extra"),
    [(dict(tensorboard=True), "tensorboardX", "tensorboard"), (dict(wandb="project"), "wandb", "wandb")],
)
def test_a_library_that_is_missing_is_named_in_one_line(options, library, extra, tmp_path, monkeypatch):
    found = importlib.import_module

    def missing(name, *rest):
        if name == library:
            raise ImportError(name=name)
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError) as error:
        fit(TrainConfig("resnet20", steps=1, out=tmp_path / "run", **SMALL, **options), quiet=True)
    assert str(error.value) == f"{extra} needs {library}: pip install 'resnet-densenet-flax[{extra}]'"


@pytest.mark.slow
def test_a_profile_is_a_trace_of_a_few_steps(tmp_path):
    assert PROFILED.stop <= 12
    run = fit(TrainConfig("resnet20", steps=12, profile=True, out=tmp_path / "run", **SMALL), quiet=True).run
    assert list((run / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("takes, every", [(0.01, 10), (0.5, 50)])
def test_curves_are_drawn_for_a_hundredth_of_the_time(takes, every, tmp_path, monkeypatch):
    now, drawn = [1000.0], []

    def draw(path, metrics, title):
        now[0] += takes
        drawn.append(now[0])

    monkeypatch.setattr("training_flax.run.logs.time.monotonic", lambda: now[0])
    monkeypatch.setattr("training_flax.run.logs.draw_curves", draw)
    (tmp_path / "run").mkdir()
    logs = Logs(plan(TrainConfig("resnet20", steps=1, out=tmp_path / "run", **SMALL)))
    for _ in range(200):  # one second each
        logs.draw()
        now[0] += 1
    assert len(drawn) == pytest.approx(200 / every, abs=1)
    logs.draw(final=True)
    assert drawn[-1] == now[0]
