"""Whole runs with values that are not finite: skipped steps, epochs without a step that counts, and NaN in results."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from training_flax import RunError, TrainConfig, evaluate, fit, plan
from training_flax.learn.steps import make_eval_step, make_train_step
from training_flax.plots.curves import draw_confusion, draw_curves
from training_flax.run.checkpoints import Progress
from training_flax.run.comparison import draw_comparison, read_run, tabulate
from training_flax.run.logs import train_means
from training_flax.run.metrics import Metrics, read_metrics

SMALL = dict(width=4, data="fake:8x8x3:4:64", batch_size=16, recipe="he2015-cifar", augment=("none",), steps=12)


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def strictly(text):
    return json.loads(text, parse_constant=no_constant)


@pytest.fixture
def poisoned(monkeypatch):
    """A switch that makes the images of some steps, counted from 0, NaN."""

    def switch(*steps):
        def make(*args, **options):
            step = make_train_step(*args, **options)

            def with_nan(state, images, labels):
                return step(state, jnp.where(jnp.isin(state.step, jnp.array(steps)), jnp.nan, images), labels)

            return with_nan

        monkeypatch.setattr("training_flax.run.programs.make_train_step", make)

    return switch


def run(out, quiet=True, **options):
    """Trains a residual network with one block in each stage for three epochs of four steps."""
    job = plan(TrainConfig("resnet20", out=out, **SMALL | options))
    small = job.eval_model.clone(stage_sizes=(1, 1, 1))
    job = replace(job, eval_model=small, model=small.clone(axis_name=job.devices.model_axis_name))
    return fit(job, quiet=quiet).run


@pytest.mark.slow
def test_an_epoch_without_a_step_that_counts_says_so(tmp_path, poisoned, capsys):
    poisoned(2, 4, 5, 6, 7)
    out = run(tmp_path / "run", quiet=False, ema=0.9)
    first, second, third = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert "%  (" not in third
    assert "% (1 of 4 steps were skipped)  test loss" in first
    assert second.startswith("epoch 2/3  train: no step counted, all 4 were skipped  test loss ")
    assert third.startswith("epoch 3/3  train loss ")
    lines = [strictly(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    train = {line["step"]: line for line in lines if line["split"] == "train"}
    assert {step: line["skipped"] for step, line in train.items()} == {
        step: int(step - 1 in (2, 4, 5, 6, 7)) for step in range(1, 13)
    }
    for step, line in train.items():
        assert (line["loss"] is None) == (line["accuracy"] is None) == (line["gradient_norm"] is None)
        assert (line["loss"] is None) == bool(line["skipped"]), step
    assert strictly((out / "summary.json").read_text())["skipped_steps"] == 5


@pytest.mark.slow
def test_a_run_goes_on_after_a_bad_step_as_if_it_had_not_been(tmp_path, poisoned):
    """A run of one batch of data, so that each step sees the same images: a skipped step is a step less."""
    data = dict(data="fake:8x8x3:4:16", schedule="constant", lr=0.01, momentum=0.0)
    plain = run(tmp_path / "plain", steps=3, ema=0.9, **data)
    poisoned(1)
    skipped = run(tmp_path / "skipped", steps=4, ema=0.9, **data)
    for name in ("model.safetensors", "model_ema.safetensors"):
        ours, theirs = load_file(skipped / name), load_file(plain / name)
        for tensor in ours:
            # The order of a batch, and so of its sums, changes from epoch to epoch.
            np.testing.assert_allclose(ours[tensor], theirs[tensor], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_too_many_bad_steps_end_the_run(tmp_path, poisoned):
    poisoned(5, 6, 7)
    with pytest.raises(RunError, match=r"^3 steps in a row were skipped"):
        run(tmp_path / "run", max_skipped=3)
    assert strictly((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] <= 8


@pytest.fixture
def blind(monkeypatch):
    """Makes the logits of all evaluations NaN, as weights do that have become too large."""

    def make(*args):
        step = make_eval_step(*args)
        return lambda variables, images, labels: step(variables, images * jnp.nan, labels)

    monkeypatch.setattr("training_flax.learn.evaluation.make_eval_step", make)


@pytest.mark.slow
def test_evaluations_that_are_nan_are_null_and_nothing_is_right(tmp_path, blind, capsys):
    out = run(tmp_path / "run", quiet=False, steps=8)
    assert "test loss nan, accuracy 0.00 %" in capsys.readouterr().out
    summary = strictly((out / "summary.json").read_text())
    assert (summary["test_loss"], summary["test_accuracy"], summary["best_accuracy"]) == (None, 0.0, 0.0)
    tests = [
        line for line in map(strictly, (out / "metrics.jsonl").read_text().splitlines()) if line["split"] == "test"
    ]
    assert [(line["loss"], line["accuracy"]) for line in tests] == [(None, 0.0)] * 2
    assert "0.00 %" in tabulate([read_run(out)])
    draw_comparison(tmp_path / "compare.png", [read_run(out)])


def test_nan_weights_have_no_accuracy_by_chance(tmp_path):
    job = plan(TrainConfig("resnet20", **SMALL, out=tmp_path / "run"))
    variables = job.eval_model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    variables = jax.tree.map(lambda leaf: leaf * jnp.nan, variables)
    found = evaluate(job.eval_model, variables, job.dataset)
    assert np.isnan(found.loss)
    assert found.accuracy == 0
    assert set(found.predictions.tolist()) == {-1}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_metrics_are_json_whatever_the_numbers_are(tmp_path, bad):
    line = {"split": "test", "step": 3, "epoch": 1.0, "loss": bad, "accuracy": 0.5}
    Metrics(tmp_path, "").append(line)
    assert strictly((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    assert read_metrics(tmp_path) == [line | {"loss": None}]


def test_older_lines_with_nan_are_read_as_null(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"split": "test", "step": 3, "epoch": 1.0, "loss": NaN, "accuracy": 0.1}\n'
    )
    assert read_metrics(tmp_path) == [{"split": "test", "step": 3, "epoch": 1.0, "loss": None, "accuracy": 0.1}]


def test_pictures_leave_out_what_is_missing(tmp_path):
    lines = [
        {"split": split, "step": step, "epoch": step, "loss": loss, "accuracy": accuracy}
        for split in ("train", "test")
        for step, (loss, accuracy) in enumerate([(1.0, 0.5), (None, 0.4), (0.5, None), (None, None)])
    ]
    draw_curves(tmp_path / "curves.png", lines, "title")
    draw_curves(tmp_path / "none.png", lines[3:4], "title")
    labels, predictions = np.array([0, 1, 1]), np.array([0, -1, 1], np.int32)
    draw_confusion(tmp_path / "confusion.png", labels, predictions, ["a", "b"], "title")
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "none.png", "confusion.png"}


@pytest.mark.parametrize(
    ("sums", "steps", "text"),
    [
        ((4.0, 2.0, 4), 4, "train loss 1.0000, accuracy 50.00 %  "),
        ((3.0, 1.5, 3), 4, "train loss 1.0000, accuracy 50.00 % (1 of 4 steps were skipped)  "),
        ((0.0, 0.0, 0), 4, "train: no step counted, all 4 were skipped  "),
    ],
)
def test_the_means_of_an_epoch_are_of_the_steps_that_count(sums, steps, text):
    assert train_means(Progress(epoch_sums=sums), steps) == text
