"""Runs on a user's own data, with his own loss, optimizer and callbacks: the bits, resumption, and what is written."""

import json
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure
from PIL import Image
from short_runs import resnet8

import training_flax.given.batches
from common_flax.files import save_figure
from training_flax import (
    Batches,
    Dataset,
    RunError,
    RunView,
    Split,
    Stopped,
    StopRequest,
    TrainConfig,
    batch_indices,
    dataset_from_arrays,
    evaluate,
    evaluate_run,
    fit,
    make_optimizer,
    open_dataset,
    plan,
    restore,
    with_recipe,
)
from training_flax.data.dataset import StreamedSplit
from training_flax.given.names import optimizer_name
from training_flax.inference import command as predict_command
from training_flax.run.programs import lower_train_step
from training_flax.runtime.signals import STOP
from weights_flax import load_model

STEPS, BATCH = 12, 16
DATA = open_dataset("fake:8x8x3:4:64")
ARRAYS = (DATA.train.images, DATA.train.labels), (DATA.test.images[:32], DATA.test.labels[:32])
assert resnet8


def config(out=None, **options):
    """The options of a run of three epochs."""
    about = {
        "width": 2,
        "steps": STEPS,
        "batch_size": BATCH,
        "recipe": "he2015-cifar",
        "augment": ("flip",),
        "lr": 0.05,
    }
    return TrainConfig("resnet8", out=out, **about | options)


def weights(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result.variables)]


def assert_same(first, second):
    for a, b in zip(weights(first), weights(second), strict=True):
        np.testing.assert_array_equal(a, b)


def entries(result):
    return json.loads((result.run / "config.json").read_text())


def cross_entropy(logits, targets):
    return optax.softmax_cross_entropy(logits, targets)


class Recorder:
    """Keeps what it sees at each event, with the sum of a kernel."""

    def __init__(self):
        self.seen = []

    def on_step(self, view: RunView) -> None:
        self.seen.append(("step", view.step, view.epoch, dict(view.metrics), total(view)))

    def on_epoch(self, view: RunView) -> None:
        self.seen.append(("epoch", view.step, view.epoch, dict(view.metrics), total(view)))

    def on_checkpoint(self, view: RunView) -> None:
        assert view.checkpoint.is_dir()
        self.seen.append(("checkpoint", view.step, view.epoch, dict(view.metrics), total(view)))


def total(view):
    return sum(float(np.abs(leaf).sum(dtype=np.float64)) for leaf in jax.tree.leaves(view.variables["params"]))


class StopAt:
    """Stops the run at a step, from one of the events."""

    def __init__(self, event, step):
        setattr(self, event, lambda view: view.step >= step)


class FailAt:
    """Raises an error at a step."""

    def __init__(self, step, error):
        self.step, self.error = step, error

    def on_step(self, view: RunView) -> None:
        if view.step == self.step:
            raise self.error


@pytest.fixture(autouse=True, scope="module")
def tiny_pictures():
    """Draws dots in place of pictures, which took half of the time."""

    def draw(path, *_, **__):
        save_figure(Figure(figsize=(0.1, 0.1)), path)

    with pytest.MonkeyPatch.context() as context:
        places = (("fit", "draw_batch"), ("results", "draw_confusion"), ("run.logs", "draw_curves"))
        for module, name in (*places, ("mistakes", "draw_mistakes")):
            context.setattr(sys.modules[f"training_flax.{module}"], name, draw)
        yield


@pytest.fixture(scope="module")
def by_name(tmp_path_factory):
    """A run on a data set that its config names, cut to the test images of `ARRAYS`."""
    job = plan(config(tmp_path_factory.mktemp("runs") / "run", data="fake:8x8x3:4:64"))
    test = Split(*ARRAYS[1])
    return fit(replace(job, dataset=replace(job.dataset, test=test)), quiet=True)


GIVEN = {
    "arrays": dict(data=ARRAYS),
    "arrays of JAX": dict(data=jax.tree.map(jnp.asarray, ARRAYS)),
    "pixels from 0 to 1": dict(data=((ARRAYS[0][0] / 255, ARRAYS[0][1]), ARRAYS[1])),
    "a Dataset": dict(data=replace(DATA, test=Split(*ARRAYS[1]))),
    "a Dataset of arrays": dict(data=dataset_from_arrays(*ARRAYS, class_names=["0", "1", "2", "3"])),
    "the same loss": dict(data=ARRAYS, loss=cross_entropy),
    "the same optimizer": dict(data=ARRAYS, optimizer=make_optimizer(with_recipe(config()), STEPS)),
    "callbacks": dict(data=ARRAYS, callbacks=[Recorder(), Recorder()]),
}


@pytest.mark.slow
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_what_is_the_same_gives_the_same_bits(given, by_name, tmp_path):
    result = fit(config(tmp_path / "run"), **given, quiet=True)
    assert_same(result, by_name)
    assert result.summary["test_loss"] == pytest.approx(by_name.summary["test_loss"], rel=1e-6)
    again = fit(config(tmp_path / "run"), **given, quiet=True)
    assert_same(again, by_name)
    assert again.summary == result.summary


@pytest.mark.slow
def test_batches_in_the_order_of_an_epoch_give_the_same_weights(tmp_path):
    """An epoch of four batches, by name and as a list: without augmentation only the order counts.

    A step that takes its images from the host is another program, and rounds otherwise.
    """
    options = dict(steps=4, augment=("none",))
    named = fit(config(tmp_path / "named", data="fake:8x8x3:4:64", **options), quiet=True)
    rows = [batch_indices(step, BATCH, 64, 0) for step in range(4)]
    batches = [(DATA.train.images[row], DATA.train.labels[row]) for row in rows]
    tests = [{"image": DATA.test.images[i : i + 30], "label": DATA.test.labels[i : i + 30]} for i in range(0, 256, 30)]
    result = fit(config(tmp_path / "run", **options), data=(batches, tests), quiet=True)
    assert result.summary["test_loss"] == pytest.approx(named.summary["test_loss"], rel=1e-4)
    for a, b in zip(weights(result), weights(named), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_is_killed_by_a_callback_and_goes_on_bit_for_bit(by_name, tmp_path):
    error = FileNotFoundError(2, "mine")  # an OSError, which the run would call a full disk if it were its own
    error.__cause__ = ValueError("its cause")
    with pytest.raises(FileNotFoundError) as caught:
        fit(config(tmp_path / "run"), data=ARRAYS, callbacks=[FailAt(6, error)], quiet=True)
    assert caught.value is error
    assert isinstance(error.__cause__, ValueError)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name == "6"] == ["6"]
    seen = Recorder()
    assert_same(fit(config(tmp_path / "run"), data=ARRAYS, callbacks=[seen], quiet=True), by_name)
    assert [entry[1] for entry in seen.seen if entry[0] == "step"] == [*range(7, STEPS + 1)]


def other(part, row):
    images, labels = part
    images = images.copy()
    images[row, 0, 0, 0] ^= 1
    return images, labels


def another_loss(logits, targets):
    return 2 * cross_entropy(logits, targets)


REFUSED = {
    "other train images": (dict(data=(other(ARRAYS[0], 63), ARRAYS[1])), "differs in .*train_sum"),
    "other test images": (dict(data=(ARRAYS[0], other(ARRAYS[1], 0))), "differs in test_sum"),
    "another order": (dict(data=((ARRAYS[0][0][::-1], ARRAYS[0][1][::-1]), ARRAYS[1])), "train_sum"),
    "batches": (dict(data=([ARRAYS[0]], ARRAYS[1])), "batch_size must be that of the batches"),
    "no data": ({}, r"'arrays' were passed to fit\(config, data=…\)"),
    "another loss": (dict(data=ARRAYS, loss=another_loss), "differs in own_loss .* there, .* now"),
    "the config's loss": (dict(data=ARRAYS, loss=None), "differs in own_loss .* there, None now"),
    "another optimizer": (
        dict(data=ARRAYS, optimizer=optax.sgd(0.1, 0.9)),
        "differs in own_optimizer .* there, .*",
    ),
    "the config's optimizer": (dict(data=ARRAYS, optimizer=None), "differs in lr|differs in own_optimizer"),
}
OWN = dict(loss=cross_entropy, optimizer=optax.adam(1e-3))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A finished run with a loss and an optimizer of the user's."""
    return fit(config(tmp_path_factory.mktemp("runs") / "run", steps=4), data=ARRAYS, **OWN, quiet=True)


@pytest.mark.parametrize(("given", "said"), REFUSED.values(), ids=REFUSED)
def test_another_run_in_the_same_folder_is_refused(given, said, own):
    with pytest.raises(ValueError, match=said) as error:
        fit(config(own.run, steps=4), **OWN | given)
    assert "\n" not in str(error.value)


def test_options_that_do_not_apply_may_differ_and_are_named(own):
    options = dict(lr=7.0, momentum=0.3, schedule="cosine", weight_decay=1.0, loss="binary")
    assert fit(config(own.run, steps=4, **options), data=ARRAYS, **OWN, quiet=True).summary == own.summary
    kept = entries(own)
    assert {"loss", "optimizer", "lr", "schedule", "weight_decay", "clip_norm"} <= {*kept["unused_options"]}
    assert kept["own_loss"].endswith("test_fit_own.cross_entropy")
    assert kept["own_optimizer"].startswith("ScaleByAdamState (")
    assert kept["resumption"] == "bit for bit, told by a hash of the images"
    lines = [json.loads(line) for line in (own.run / "metrics.jsonl").read_text().splitlines()]
    assert {line["learning_rate"] for line in lines if line["split"] == "train"} == {None}


@pytest.mark.slow
def test_an_optimizer_trains_as_in_a_loop_of_ones_own(tmp_path):
    """A step with plain gradient descent at rate 0 changes nothing; weight decay of the config does not count."""
    still = fit(config(tmp_path / "run", steps=1, weight_decay=0.5), data=ARRAYS, optimizer=optax.sgd(0.0), quiet=True)
    begun = plan(config(steps=1), data=ARRAYS)
    key = jax.random.split(jax.random.key(0))[0]
    first = begun.model.init(key, jnp.zeros((1, 8, 8, 3)), train=False)["params"]
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(still.variables["params"]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_loss_is_the_one_that_is_trained_and_measured(tmp_path):
    """A loss of ten times the cross-entropy has ten times its value, in training and in tests."""
    ten = lambda logits, targets: 10 * cross_entropy(logits, targets)  # noqa: E731
    seen = Recorder()
    options = dict(steps=1, weight_decay=0.0)
    once = fit(config(tmp_path / "a", **options), data=ARRAYS, quiet=True)
    result = fit(config(tmp_path / "b", **options, lr=0.005), data=ARRAYS, loss=ten, callbacks=[seen], quiet=True)
    for a, b in zip(weights(once), weights(result), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert result.summary["test_loss"] == pytest.approx(10 * once.summary["test_loss"], rel=1e-3)
    assert entries(result)["own_loss"].endswith("<locals>.<lambda>")


@pytest.mark.slow
def test_a_reduction_on_plateaus_sees_the_loss(tmp_path):
    optimizer = optax.chain(optax.sgd(0.05), optax.contrib.reduce_on_plateau(patience=1))
    result = fit(config(tmp_path / "run", steps=4), data=ARRAYS, optimizer=optimizer, quiet=True)
    assert result.summary["skipped_steps"] == 0
    assert "ReduceLROnPlateauState" in entries(result)["own_optimizer"]


def labelled(params):
    return {name: "head" if name == "fc" else "body" for name in params}


OPTAX = {
    "a schedule among the state": optax.inject_hyperparams(optax.adamw)(optax.cosine_decay_schedule(1e-3, 100)),
    "lion": optax.lion(1e-4),
    "adafactor": optax.adafactor(1e-3),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9, nesterov=True)),
    "by layers": optax.multi_transform({"body": optax.sgd(0.01), "head": optax.adam(1e-3)}, labelled),
    "looking ahead": optax.apply_if_finite(optax.rmsprop(1e-3), 3),
    "in several steps": optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation(),
    "momentum in bfloat16": optax.adam(1e-3, mu_dtype=jnp.bfloat16),
    "without a state": optax.sgd(0.1),
}


@pytest.mark.parametrize("optimizer", OPTAX.values(), ids=OPTAX)
def test_optimizers_of_optax_make_a_step(optimizer):
    """A step is traced, with a state that keeps its types."""
    lower_train_step(plan(config(), data=ARRAYS, optimizer=optimizer))


def test_an_optimizer_is_known_by_its_state():
    params = {"conv": {"kernel": jnp.zeros((3, 3))}, "fc": {"kernel": jnp.zeros((3,))}}
    names = [optimizer_name(optimizer, params) for optimizer in OPTAX.values()]
    assert len({*names}) == len(names)
    assert names[0].startswith("InjectStatefulHyperparamsState, WrappedScheduleState, ScaleByAdamState (")
    assert names[-1].startswith("no state (")
    assert optimizer_name(optax.adam(1.0), params) == optimizer_name(optax.adam(2.0), params)
    assert optimizer_name(optax.adam(1.0), {}) != optimizer_name(optax.adam(1.0), params)


@pytest.mark.slow
def test_callbacks_see_the_run_as_its_files_tell_it(tmp_path):
    seen = Recorder()
    result = fit(config(tmp_path / "run", ema=0.5), data=ARRAYS, callbacks=[seen], quiet=True)
    events = [(event, step, epoch) for event, step, epoch, _, _ in seen.seen]
    assert [e for e in events if e[0] == "step"] == [("step", s, -(-s // 4)) for s in range(1, STEPS + 1)]
    assert [e for e in events if e[0] == "epoch"] == [("epoch", s, s // 4) for s in (4, 8, 12)]
    assert events[-1] == ("checkpoint", STEPS, 3)
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    averaged = [line["accuracy"] for line in lines if line["split"] == "test of averaged weights"]
    epochs = [metrics for event, _, _, metrics, _ in seen.seen if event == "epoch"]
    assert [metrics["test_accuracy"] for metrics in epochs] == averaged
    steps = [metrics for event, _, _, metrics, _ in seen.seen if event == "step"]
    assert np.mean([m["loss"] for m in steps[:4]]) == pytest.approx(epochs[0]["train_loss"])
    assert steps[0]["learning_rate"] == pytest.approx(0.05)
    assert set(steps[0]) == {"loss", "accuracy", "gradient_norm", "learning_rate"}
    last = sum(float(np.abs(leaf).sum(dtype=np.float64)) for leaf in jax.tree.leaves(result.variables["params"]))
    assert seen.seen[-1][-1] == pytest.approx(last, rel=1e-12)
    sums = [entry[-1] for entry in seen.seen if entry[0] == "step"]
    assert len({*sums}) == STEPS  # each step's own state, and not the next one's
    kept = entries(result)
    assert kept["callbacks"] == [f"{Recorder.__module__}.Recorder"]


@pytest.mark.slow
def test_a_view_is_a_copy_that_nothing_changes(tmp_path):
    views, copies = [], []

    class Keep:
        def on_step(self, view):
            views.append(view)
            copies.append((view.state, view.averaged))
            for leaf in jax.tree.leaves(view.variables):
                leaf[...] = np.nan  # its own copy
            with pytest.raises(TypeError):
                view.metrics["loss"] = 0.0
            with pytest.raises(AttributeError):
                view.step = 0

    kept = fit(config(tmp_path / "a", steps=4), data=ARRAYS, callbacks=[Keep()], quiet=True)
    assert_same(kept, fit(config(tmp_path / "b", steps=4), data=ARRAYS, quiet=True))
    assert [int(state.step) for state, _ in copies] == [1, 2, 3, 4]
    assert [averaged for _, averaged in copies] == [None] * 4
    last = jax.tree.leaves(copies[-1][0].params)
    for a, b in zip(last, jax.tree.leaves(kept.variables["params"]), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(RuntimeError, match="within the callback only"):
        _ = views[0].state


@pytest.mark.slow
@pytest.mark.parametrize(("event", "at"), [("on_step", 6), ("on_epoch", 8), ("on_checkpoint", 4)])
def test_a_callback_ends_a_run_with_results(event, at, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training_flax.run.loop.SHARE_OF_CHECKPOINTS", float("inf"))
    monkeypatch.setattr("training_flax.run.loop.SHORT_EPOCH", 0.0)
    result = fit(config(tmp_path / "run"), data=ARRAYS, callbacks=[StopAt(event, at)])
    steps = result.summary["steps"]
    assert steps == at
    assert result.summary["stopped_by"].endswith("StopAt")
    assert f"StopAt after step {steps} of {STEPS}" in capsys.readouterr().out
    assert (result.run / "confusion.png").is_file()
    evaluation = evaluate(*restore(result.run), dataset_from_arrays(*ARRAYS))
    assert evaluation.accuracy == result.summary["test_accuracy"]
    # The same command again changes nothing, with the callback or without.
    for callbacks in ([StopAt(event, at)], []):
        again = fit(config(tmp_path / "run"), data=ARRAYS, callbacks=callbacks)
        assert again.summary == result.summary
        assert f"is finished: {steps} of {STEPS} steps, stopped by" in capsys.readouterr().out
    # Its results are written anew from its checkpoint, and it goes on if it is made longer.
    (result.run / "model.safetensors").unlink()
    assert_same(fit(config(tmp_path / "run"), data=ARRAYS, quiet=True), result)
    longer = fit(plan(config(tmp_path / "run", steps=STEPS + 4), data=ARRAYS, extend=True), quiet=True)
    assert longer.summary["steps"] == STEPS + 4
    assert "stopped_by" not in longer.summary


@pytest.mark.slow
def test_a_run_that_is_killed_after_its_callback_has_stopped_it_writes_its_results(tmp_path, monkeypatch):
    """A kill between the last checkpoint and the results leaves the checkpoint, which tells that the run has ended."""
    with monkeypatch.context() as context:
        context.setattr(sys.modules["training_flax.fit"], "write_results", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(config(tmp_path / "run"), data=ARRAYS, callbacks=[StopAt("on_step", 6)], quiet=True)
    result = fit(config(tmp_path / "run"), data=ARRAYS, callbacks=[StopAt("on_step", 12)], quiet=True)
    assert (result.summary["steps"], result.summary["planned_steps"]) == (6, STEPS)


def test_a_truth_of_numpy_stops_and_nothing_goes_on(tmp_path):
    seen = Recorder()

    class Numpy:
        def on_step(self, view):
            return np.float32(view.step) > 2

    result = fit(config(tmp_path / "run"), data=ARRAYS, callbacks=[seen, Numpy()], quiet=True)
    assert result.summary["steps"] == 3


WRONG = {
    "a function": ([print], "must have any of the methods on_step, on_epoch, on_checkpoint"),
    "a class": ([Recorder], r"is a class: give Recorder\(…\)"),
    "the name of Keras": ([type("Mine", (), {"on_epoch_end": print})()], "on_epoch_end is called on_epoch here"),
    "one object": (Recorder(), "must be a list of objects"),
    "None in a list": ([None], "NoneType must have any of the methods"),
}


@pytest.mark.parametrize(("callbacks", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_callback_is_told(callbacks, said):
    with pytest.raises(ValueError, match=said) as error:
        plan(config(), data=ARRAYS, callbacks=callbacks)
    assert "\n" not in str(error.value)


def mean_loss(logits, targets):
    return cross_entropy(logits, targets).mean()


WRONG_PARTS = {
    "a name": (dict(loss="focal"), "loss must be a function .*given 'focal'"),
    "a scalar loss": (dict(loss=mean_loss), r"a number for each image, of shape \(16,\).*given shape \(\)"),
    "a factory": (dict(optimizer=optax.adam), r"given <function adam.*: call it, as in adam\(1e-3\)"),
    "a name of an optimizer": (dict(optimizer="adam"), "must be an optax.GradientTransformation; given 'adam'"),
    "a dict": (dict(data={"x": 1}), "data must be .*given 'dict'"),
}


@pytest.mark.parametrize(("parts", "said"), WRONG_PARTS.values(), ids=WRONG_PARTS)
def test_a_wrong_part_is_told_in_one_line(parts, said, tmp_path):
    with pytest.raises(ValueError, match=said) as error:
        fit(config(tmp_path / "run"), **{"data": ARRAYS} | parts, quiet=True)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_parts_go_to_the_plan_of_a_job(tmp_path):
    job = plan(config(tmp_path / "run", steps=1), data=ARRAYS, loss=partial(cross_entropy))
    with pytest.raises(ValueError, match="give data, callbacks to plan"):
        fit(job, data=ARRAYS, callbacks=[Recorder()])
    assert fit(job, quiet=True).summary["data"] == "arrays"
    assert entries(fit(job, quiet=True))["own_loss"].endswith("cross_entropy")


def batches_of(labels=DATA.train.labels, fail_at=None, calls=None):
    """Makes the function of an epoch's batches, 20 images each and the last 4."""

    def generate():
        calls.append(True)
        for number, start in enumerate(range(0, 64, 20)):
            if fail_at == (len(calls), number):
                raise OSError(5, "no such shard")
            yield DATA.train.images[start : start + 20], labels[start : start + 20]

    calls = [] if calls is None else calls
    return Batches(generate, ARRAYS[1], length=4)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_batches_train_and_resume_by_epochs(parallel, tmp_path, capsys):
    calls = []
    options = dict(batch_size=None, parallel=parallel, ema=0.5)
    failing = batches_of(fail_at=(4, 2), calls=calls)  # calls: the sample, batch.png, the first epoch, the second
    with pytest.raises(OSError, match="no such shard"):
        fit(config(tmp_path / "run", **options), data=failing)
    out = capsys.readouterr().out
    assert "an epoch is 4 batches of 20 images" in out
    assert "resumes by epochs: the iterable begins anew" in out
    assert (tmp_path / "run" / "checkpoints" / "6").is_dir()
    seen = Recorder()
    result = fit(config(tmp_path / "run", **options), data=batches_of(calls=calls), callbacks=[seen], quiet=True)
    assert [entry[1] for entry in seen.seen if entry[0] == "step"] == [*range(7, STEPS + 1)]
    assert result.summary["steps"] == STEPS
    assert result.summary["train_examples"] == 80
    kept = entries(result)
    assert (kept["data"], kept["batch_size"]) == ("batches", 20)
    assert kept["resumption"].startswith("by epochs")


@pytest.mark.slow
def test_too_few_batches_end_in_a_line_and_the_run_is_saved(tmp_path):
    short = Batches(batches_of().train, ARRAYS[1], length=5)
    with pytest.raises(RunError, match=r"ended after 4 batches, before the epoch did; the state after step 4 is saved"):
        fit(config(tmp_path / "run", batch_size=None), data=short, quiet=True)


@pytest.mark.slow
def test_a_wrong_batch_ends_in_a_line_and_the_run_is_saved(tmp_path):
    labels = np.where(np.arange(64) >= 45, 9, DATA.train.labels)
    wrong = batches_of(labels=labels)
    about = dict(batch_size=None, num_classes=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(RunError, match=r"train batch 3: label 9 is beyond the 4 classes; .*after step 2 is saved"):
        fit(config(tmp_path / "run", **about), data=wrong, quiet=True)


@pytest.mark.slow
def test_floats_of_batches_give_nearly_the_bits_of_bytes(tmp_path):
    rows = [(DATA.train.images[i : i + 16], DATA.train.labels[i : i + 16]) for i in range(0, 64, 16)]
    floats = [(images.astype(np.float32) / 255, labels) for images, labels in rows]
    options = dict(steps=2, augment=("none",))
    results = [
        fit(config(tmp_path / name, **options), data=(batches, ARRAYS[1]), quiet=True)
        for name, batches in (("bytes", rows), ("floats", floats))
    ]
    for a, b in zip(*map(weights, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_large_test_part_is_read_again_at_each_evaluation(tmp_path, monkeypatch):
    rows = [(DATA.train.images[i : i + 16], DATA.train.labels[i : i + 16]) for i in range(0, 64, 16)]
    tests = [(ARRAYS[1][0][i : i + 5], ARRAYS[1][1][i : i + 5]) for i in range(0, 32, 5)]
    kept = fit(config(tmp_path / "kept", steps=8), data=(rows, tests), quiet=True)
    monkeypatch.setattr(training_flax.given.batches, "MEMORY_LIMIT", 0)
    read = fit(config(tmp_path / "read", steps=8), data=(rows, tests), quiet=True)
    assert_same(kept, read)
    assert kept.summary["test_accuracy"] == read.summary["test_accuracy"]
    # Images from the host are evaluated by another program, which rounds otherwise.
    assert kept.summary["test_loss"] == pytest.approx(read.summary["test_loss"], rel=2**-20)


@pytest.mark.slow
def test_the_readers_of_runs_take_such_a_run_or_say_what_is_missing(own, tmp_path, capsys):
    model, variables, card = load_model(own.run)
    assert card["class_names"] == ["0", "1", "2", "3"]
    result = evaluate(model, variables, dataset_from_arrays(*ARRAYS))
    assert result.accuracy == own.summary["test_accuracy"]
    with pytest.raises(ValueError, match=r"'arrays' were passed to fit\(config, data=…\), and are in no file") as error:
        evaluate_run(TrainConfig(out=own.run))
    assert "\n" not in str(error.value)
    Image.fromarray(ARRAYS[1][0][0]).save(tmp_path / "image.png")
    assert predict_command.main(["--run", str(own.run), str(tmp_path / "image.png")]) == 0
    assert "image.png" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_on_values_of_the_users_own_scale_asks_for_mean_and_std(tmp_path, capsys):
    values = [(3 * (images / 255) - 1.5, labels) for images, labels in ARRAYS]
    about = dict(steps=1, mean=(0.0,) * 3, std=(1.0,) * 3)
    result = fit(config(tmp_path / "run", **about), data=tuple(values), quiet=True)
    assert entries(result)["pixels"] is False
    Image.fromarray(ARRAYS[1][0][0]).save(tmp_path / "image.png")
    assert predict_command.main(["--run", str(result.run), str(tmp_path / "image.png")]) == 0
    assert "no mean and std are known" in "".join(capsys.readouterr())
    assert "normalisation" not in load_model(result.run / "model.safetensors", width=2).card or (
        load_model(result.run / "model.safetensors", width=2).card["normalisation"] is None
    )


@pytest.mark.slow
def test_a_signal_stops_a_run_with_callbacks_as_any_other(by_name, tmp_path):
    request = StopRequest()

    class Press:
        def on_step(self, view):
            if view.step == 5:
                request.stop_signal = STOP + 15

    with pytest.raises(Stopped, match="after step"):
        fit(config(tmp_path / "run"), data=ARRAYS, callbacks=[Press()], stop=request, quiet=True)
    assert_same(fit(config(tmp_path / "run"), data=ARRAYS, quiet=True), by_name)


@pytest.mark.slow
def test_a_data_set_of_the_users_may_decode_on_demand(tmp_path):
    """A user's own `StreamedSplit` trains, and its labels tell it from another."""
    images, labels = ARRAYS[0]
    streamed = StreamedSplit(labels, (8, 8, 3), images.__getitem__)
    test = StreamedSplit(ARRAYS[1][1], (8, 8, 3), ARRAYS[1][0].__getitem__)
    data = Dataset("mine", streamed, test, ("a", "b", "c", "d"), DATA.mean, DATA.std)
    result = fit(config(tmp_path / "run", steps=4), data=data, quiet=True)
    kept = entries(result)
    assert (kept["data"], kept["resumption"]) == ("dataset:mine", "bit for bit, while the images stay the same")
    other_labels = replace(streamed, labels=labels[::-1].copy())
    with pytest.raises(ValueError, match="differs in train_labels"):
        fit(config(tmp_path / "run", steps=4), data=replace(data, train=other_labels))
