"""The logs of a run beside metrics.jsonl."""

import importlib

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from training_flax import TrainConfig, fit, plan
from training_flax.run.logs import PROFILED, Logs
from training_flax.run.metrics import read_metrics

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


def test_tensorboard_is_told_what_metrics_jsonl_is(tmp_path):
    run = fit(TrainConfig("resnet20", steps=2, tensorboard=True, out=tmp_path / "run", **SMALL), quiet=True).run
    [file] = (run / "tensorboard").iterdir()
    told = {(value.tag, event.step): value.simple_value for event in events(file) for value in event.summary.value}
    lines = read_metrics(run)
    assert {line["split"] for line in lines} == {"train", "test"}
    for line in lines:
        for name, value in line.items():
            if name not in ("split", "step"):
                assert told.pop((f"{line['split']}/{name}", line["step"])) == pytest.approx(value, rel=1e-6)
    assert not told


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
