"""A user's own data, loss, optimizer and callbacks beside validation, patience, weights of classes and sampling."""

import json
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from short_runs import resnet8

from training_flax import (
    Batches,
    Split,
    Stopped,
    StopRequest,
    TrainConfig,
    evaluate,
    fit,
    open_dataset,
    plan,
    restore,
)
from training_flax.data.held_out import Draw
from training_flax.introduction import introduce
from training_flax.runtime.signals import STOP
from training_flax.runtime.terminal import Terminal
from weights_flax import load_weights

NAME = "fake:8x8x3:4:64"
DATA = open_dataset(NAME)
ARRAYS = (DATA.train.images, DATA.train.labels), (DATA.test.images, DATA.test.labels)
BATCHES = [(DATA.train.images[i : i + 16], DATA.train.labels[i : i + 16]) for i in range(0, 64, 16)]
HELD_OUT = open_dataset(NAME, draw=Draw(validation_share=0.25, seed=0))
assert resnet8


def config(out=None, **options):
    """The options of a run with a validation part of 16 images, and of three steps in an epoch."""
    about = {"width": 2, "epochs": 4, "batch_size": 16, "augment": ("flip",), "schedule": "constant", "warmup": 0.0}
    about |= {"lr": 0.05, "validation_share": 0.25}
    return TrainConfig("resnet8", out=out, **about | options)


def cross_entropy(logits, targets):
    return optax.softmax_cross_entropy(logits, targets)


def assert_same(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def entries(run):
    return json.loads((run / "config.json").read_text())


def looks(run):
    """Returns split and step of each evaluation in metrics.jsonl."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["split"], line["step"]) for line in lines if line["split"] != "train"]


class StopAt:
    """Stops the run at a step, from one of the events; keeps the names of the numbers that it sees."""

    def __init__(self, event, step):
        self.names = set()

        def seen(view):
            self.names |= {*view.metrics}
            return view.step >= step

        setattr(self, event, seen)


COMBINED = {
    "a validation part": {},
    "balanced weights": {"class_weights": "balanced"},
    "weights of classes": {"class_weights": (1.0, 2.0, 0.0, 1.0)},
    "balanced sampling": {"sampling": "balanced"},
    "decay by layers": {"layer_decay": 0.5},
    "another draw": {"split_seed": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", COMBINED.values(), ids=COMBINED)
def test_arrays_train_as_the_same_images_by_name(options, tmp_path):
    """The validation part is the same, mean and std are, and so are all bits of the weights."""
    options |= {"epochs": 1}
    by_name = fit(config(tmp_path / "name", data=NAME, **options), quiet=True)
    given = fit(config(tmp_path / "arrays", **options), data=ARRAYS, quiet=True)
    assert_same(by_name.variables, given.variables)
    for entry in ("train_examples", "validation_examples", "test_examples", "normalisation"):
        assert entries(given.run)[entry] == entries(by_name.run)[entry]
    for number in ("validation_accuracy", "test_accuracy", "best_step"):
        assert given.summary[number] == by_name.summary[number]


STILL = {"data": ARRAYS, "loss": cross_entropy, "optimizer": optax.sgd(0.0)}  # learns nothing: epoch 1 is the best


def still(out, patience, **options):
    return config(out, patience=patience, frozen_batch_norm=True, **options)


@pytest.mark.slow
def test_patience_ends_a_run_of_own_parts_which_goes_on_with_more_of_it(tmp_path, capsys):
    run = tmp_path / "run"
    first = fit(still(run, 1), **STILL)
    assert {"steps": 6, "best_step": 3, "stopped_early": 1}.items() <= first.summary.items()
    assert "stopped_by" not in first.summary
    assert looks(run) == [("validation", 3), ("validation", 6), ("test of best weights", 6)]
    capsys.readouterr()
    assert fit(still(run, 1), **STILL).summary == first.summary
    assert "is finished: 6 steps of 12, for its patience" in capsys.readouterr().out
    (run / "model.safetensors").unlink()
    assert_same(fit(still(run, 1), **STILL, quiet=True).variables, first.variables)
    assert len(looks(run)) == 3
    longer = fit(plan(still(run, 2), **STILL, extend=True), quiet=True)
    assert {"steps": 9, "stopped_early": 2}.items() <= longer.summary.items()


ENDS = [
    ("on_epoch", 6),
    *(pytest.param(*end, marks=pytest.mark.slow) for end in (("on_step", 4), ("on_checkpoint", 3))),
]


@pytest.mark.slow
@pytest.mark.parametrize(("event", "at"), ENDS)
def test_a_callback_ends_a_run_with_validation_which_goes_on_if_it_is_made_longer(event, at, tmp_path, capsys):
    run, callback = tmp_path / "run", StopAt(event, at)
    first = fit(config(run, patience=50), data=ARRAYS, callbacks=[callback])
    assert first.summary["steps"] == at
    assert first.summary["planned_steps"] == 12
    assert "stopped_early" not in first.summary
    assert callback.names >= ({"loss"} if event == "on_step" else {"validation_loss", "validation_accuracy"})
    assert not callback.names & {"test_loss", "test_accuracy"}
    seen = looks(run)
    assert seen[-1] == ("test of best weights", at)
    evaluation = evaluate(*restore(run), HELD_OUT, 16)
    assert evaluation.accuracy == first.summary["test_accuracy"]
    capsys.readouterr()
    assert fit(config(run, patience=50), data=ARRAYS).summary == first.summary
    assert f"is finished: {at} of 12 steps, stopped by" in capsys.readouterr().out
    (run / "model.safetensors").unlink()
    assert_same(fit(config(run, patience=50), data=ARRAYS, quiet=True).variables, first.variables)
    assert looks(run) == seen  # evaluations that are repeated are not written twice
    longer = fit(plan(config(run, patience=50, epochs=5), data=ARRAYS, extend=True), quiet=True)
    assert longer.summary["steps"] == 15
    assert not longer.summary.keys() & {"stopped_by", "planned_steps", "stopped_early"}


@pytest.mark.slow
def test_both_ends_at_once_are_told(tmp_path, capsys):
    run = tmp_path / "run"
    both = fit(still(run, 1), **STILL, callbacks=[StopAt("on_epoch", 6)])
    assert {"steps": 6, "planned_steps": 12, "stopped_early": 1}.items() <= both.summary.items()
    assert both.summary["stopped_by"].endswith("StopAt")
    capsys.readouterr()
    assert fit(still(run, 1), **STILL).summary == both.summary
    assert "is finished" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_of_all_own_parts_is_stopped_and_ends_with_the_same_bits(tmp_path):
    parts = {"data": ARRAYS, "loss": cross_entropy, "optimizer": optax.adam(1e-2)}
    options = {"sampling": "balanced", "patience": 50, "ema": 0.5, "epochs": 3}
    whole = fit(config(tmp_path / "whole", **options), **parts, quiet=True)
    stop = StopRequest()

    class Ask:
        def on_step(self, view):
            if view.step == 5:
                stop.stop_signal = STOP + 15

    with pytest.raises(Stopped):
        fit(config(tmp_path / "run", **options), **parts, callbacks=[Ask()], stop=stop, quiet=True)
    again = fit(config(tmp_path / "run", **options), **parts, quiet=True)
    assert_same(again.variables, whole.variables)
    for which in ("averaged", "best"):
        assert_same(*(load_weights(whole.model, each.run, which=which) for each in (again, whole)))
    assert looks(again.run) == looks(whole.run)


@pytest.mark.slow
def test_a_data_set_of_ones_own_may_have_a_validation_part(tmp_path):
    options = {"validation_share": None, "epochs": 1}
    given = fit(config(tmp_path / "run", **options), data=HELD_OUT, quiet=True)
    by_name = fit(config(tmp_path / "name", data=NAME, epochs=1), quiet=True)
    assert_same(given.variables, by_name.variables)
    assert given.summary["validation_accuracy"] == by_name.summary["validation_accuracy"]
    validation = HELD_OUT.arrays("validation")
    other = replace(HELD_OUT, validation=Split(255 - validation.images, validation.labels))
    with pytest.raises(ValueError, match="differs in validation_sum"):
        plan(config(given.run, **options), data=other)
    with pytest.raises(ValueError, match="differs in validation_examples"):
        plan(config(given.run, **options), data=replace(HELD_OUT, validation=None))


@pytest.mark.slow
def test_batches_take_weights_of_classes_that_are_numbers(tmp_path):
    options = {"validation_share": None, "epochs": 1, "class_weights": (1.0, 2.0, 1.0, 1.0)}
    weighed = fit(config(tmp_path / "run", **options), data=Batches(BATCHES, ARRAYS[1]), quiet=True)
    even = fit(
        config(tmp_path / "even", **options | {"class_weights": None}), data=Batches(BATCHES, ARRAYS[1]), quiet=True
    )
    kernels = [np.asarray(jax.tree.leaves(each.variables["params"])[0]) for each in (weighed, even)]
    assert not np.array_equal(*kernels)


SMALLER = replace(HELD_OUT, validation=Split(HELD_OUT.arrays("validation").images[:, :4], HELD_OUT.validation.labels))
REFUSED = {
    "a share of batches": ({}, {"data": Batches(BATCHES, ARRAYS[1])}, "validation_share draws from train images in"),
    "a share beside a part": ({}, {"data": HELD_OUT}, "validation_share is for data without a validation part"),
    "a share that takes none": (
        {"batch_size": 1},
        {"data": tuple((images[:1], labels[:1] * 0) for images, labels in ARRAYS)},
        "validation_share 0.25 of 1 train images leaves none for validation",
    ),
    "another shape": ({"validation_share": None}, {"data": SMALLER}, "validation and test images must have one shape"),
    "a test share": ({"test_share": 0.2}, {"data": ARRAYS}, "test_share is for data that are opened by name"),
    "a validation split": (
        {"validation_split": "val"},
        {"data": ARRAYS},
        "validation_split is for data that are opened by name",
    ),
    "balanced batches": (
        {"validation_share": None, "sampling": "balanced"},
        {"data": Batches(BATCHES, ARRAYS[1])},
        "sampling 'balanced' needs all train labels",
    ),
    "balanced weights of batches": (
        {"validation_share": None, "class_weights": "balanced"},
        {"data": Batches(BATCHES, ARRAYS[1])},
        "class_weights 'balanced' needs all train labels",
    ),
    "weights of other classes": ({"class_weights": (1.0, 2.0)}, {"data": ARRAYS}, "class_weights must be 4 numbers"),
    "weights of classes and a loss": (
        {"class_weights": "balanced"},
        {"data": ARRAYS, "loss": cross_entropy},
        "class_weights are for the losses of the config",
    ),
    "decay by layers and an optimizer": (
        {"layer_decay": 0.5},
        {"data": ARRAYS, "optimizer": optax.sgd(0.1)},
        "layer_decay is for the optimizers of the config",
    ),
    "patience without validation": (
        {"validation_share": None, "patience": 2},
        {"data": ARRAYS},
        "patience is for data with a validation part",
    ),
}


@pytest.mark.parametrize(("options", "parts", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_together_is_told_in_a_line(options, parts, said, tmp_path):
    with pytest.raises(ValueError, match=said) as error:
        plan(config(tmp_path / "run", **options), **parts)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_first_lines_tell_all_parts(capsys):
    options = config(class_weights=(1.0, 2.0, 0.5, 1.0), layer_decay=0.5)
    introduce(plan(options, data=ARRAYS, callbacks=[StopAt("on_step", 1)]), Terminal())
    shown = capsys.readouterr().out
    for line in (
        "data    arrays, 48 train, 16 validation and 256 test images of 8×8×3, 4 classes",
        "        split 75/25, seed 0: 48 train, 16 validation",
        "rates   stem × 0.0625, stages × 0.125, 0.25, 0.5, head × 1",
        "loss    weights 0 1, 1 2, 2 0.5, 3 1",
        "calls   ",
    ):
        assert line in shown
