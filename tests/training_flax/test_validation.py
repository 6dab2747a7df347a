"""A validation part chooses the best weights and ends a run early; the test part is looked at once, at the end."""

import json
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from training_flax import (
    Stopped,
    StopRequest,
    TrainConfig,
    evaluate,
    evaluate_run,
    fit,
    open_dataset,
    plan,
    restore,
    train_command,
)
from training_flax.data.held_out import Draw
from training_flax.inference.command import main as predict
from training_flax.run import evaluations
from training_flax.runtime.signals import STOP, RunError
from weights_flax import load_model, load_weights, read_card
from weights_flax.__main__ import main as weights_main

# Noise, whose validation accuracy goes up and down: of 64 images 16 are for validation, and an epoch is three steps.
OPTIONS = dict(arch="resnet20", width=2, data="fake:8x8x3:4:64", batch_size=16, augment=(), schedule="constant")
OPTIONS |= dict(warmup=0.0, lr=0.05, validation_share=0.25)
LONG = 12  # epochs
TIMES = ("images_per_second", "data_wait", "check_sum")


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def looks(run):
    """Returns the evaluations of a run, without the check sums."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines(run) if line["split"] != "train"]


def flat(variables):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(variables))])


AVERAGES = [
    pytest.param(0.0, id="without averages"),
    pytest.param(0.5, id="with averages", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=AVERAGES)
def whole(request, tmp_path_factory):
    """A run without patience, with the numbers of looks at the test part."""
    run, seen = tmp_path_factory.mktemp("validation") / "run", []
    before = evaluations.evaluate_part

    def counted(step, split, *rest):
        seen.append(len(split.labels))
        return before(step, split, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluations, "evaluate_part", counted)
        result = fit(TrainConfig(**OPTIONS, epochs=LONG, ema=request.param, out=run), quiet=True)
    return result, seen


@pytest.mark.slow
def test_the_test_part_is_looked_at_once_at_the_end(whole):
    result, seen = whole
    kinds = [
        "validation",
        *(["validation of averaged weights"] if "model_ema.safetensors" in names(result.run) else []),
    ]
    assert seen == [16] * LONG * len(kinds) + [256]
    assert [line["split"] for line in looks(result.run)] == kinds * LONG + ["test of best weights"]
    assert [line["step"] for line in looks(result.run)][:: len(kinds)] == [*range(3, 3 * LONG + 1, 3), 3 * LONG]


def names(run):
    return {path.name for path in run.iterdir()}


def test_the_best_weights_are_those_of_the_best_validation_accuracy(whole):
    result, _ = whole
    run, summary = result.run, result.summary
    kind = [line for line in looks(run) if line["split"].startswith("validation")][-1]["split"]
    accuracies = {line["step"]: line["accuracy"] for line in looks(run) if line["split"] == kind}
    best = max(accuracies, key=accuracies.__getitem__)  # the first one
    assert (summary["best_step"], summary["best_accuracy"]) == (best, accuracies[best])
    assert summary["validation_accuracy"] == accuracies[best]
    assert (summary["validation_examples"], summary["train_examples"], summary["test_examples"]) == (16, 48, 256)
    assert summary["tested_weights"] == "best"
    assert 0 < best < 3 * LONG  # else the test would see nothing of what it is about
    card = read_card(run / "model_best.safetensors")
    assert (card["run"]["which"], card["run"]["step"]) == ("best", best)
    model, variables = restore(run)
    dataset = open_dataset(OPTIONS["data"], draw=Draw(validation_share=0.25))
    evaluation = evaluate(model, variables, dataset, 16)
    assert evaluation.accuracy == summary["test_accuracy"]
    assert evaluation.loss == pytest.approx(summary["test_loss"], rel=1e-6)
    assert not np.array_equal(flat(variables), flat(result.variables))
    # Every door takes them, from the file and from the checkpoint, and others by name.
    expected = flat(variables)
    for source in (run, run / "model_best.safetensors"):
        np.testing.assert_array_equal(flat(load_model(source).variables), expected)
    np.testing.assert_array_equal(flat(load_weights(model, run, which="best")), expected)
    np.testing.assert_array_equal(flat(restore(run, which="last")[1]), flat(result.variables))


def test_evaluations_name_the_weights_and_give_the_summarys_accuracy(whole, capsys):
    result, _ = whole
    network = ["--arch", "resnet20", "--width", "2", "--data", OPTIONS["data"], "--validation-share", "0.25"]
    network += ["--batch-size", "16"]
    assert train_command.main([*network, "--out", str(result.run), "--eval-only"]) == 0
    shown = capsys.readouterr().out
    assert f"{100 * result.summary['test_accuracy']:.2f} %" in shown
    assert "best weights" in shown


@pytest.mark.slow
def test_the_best_weights_are_taken_from_the_checkpoint_where_their_file_is_missing(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole[0].run, run)
    expected = flat(restore(run)[1])
    (run / "model_best.safetensors").rename(tmp_path / "best.safetensors")
    np.testing.assert_array_equal(flat(restore(run)[1]), expected)
    assert load_model(run).card["run"] == read_card(whole[0].run / "model_best.safetensors")["run"]
    config = TrainConfig(**OPTIONS, epochs=LONG, ema=0.5 * ("model_ema.safetensors" in names(run)), out=run)
    fit(config, quiet=True)  # writes what is missing anew
    np.testing.assert_array_equal(flat(load_model(run / "model_best.safetensors").variables), expected)
    assert looks(run) == looks(whole[0].run)
    before = (run / "metrics.jsonl").read_bytes()
    fit(config, quiet=True)
    assert (run / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(run / "checkpoints" / str(whole[0].summary["best_step"]))
    (run / "model_best.safetensors").unlink()
    with pytest.raises(RunError, match=r"^the best weights, after step \d+, are lost: ") as error:
        fit(config, quiet=True)
    assert "\n" not in str(error.value)


def test_converting_and_predicting_take_the_best_weights(whole, tmp_path, capsys):
    run, image = whole[0].run, tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(image)
    assert weights_main(["convert", str(run), "--out", str(tmp_path / "out.safetensors")]) == 0
    np.testing.assert_array_equal(flat(load_model(tmp_path / "out.safetensors").variables), flat(restore(run)[1]))
    assert predict(["--run", str(run), str(image)]) == 0
    assert predict(["--run", str(run), "--which", "last", str(image)]) == 0


def test_weights_that_are_no_best_ones_are_said_to_be_so(whole, tmp_path):
    model, last = load_model(whole[0].run).model, whole[0].run / "model.safetensors"
    with pytest.raises(ValueError, match=r"are the last weights; asked for: best$"):
        load_weights(model, last, which="best")
    np.savez(tmp_path / "others.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"are weights that are not said to be the best of a run; asked for: best$"):
        load_weights(model, tmp_path / "others.npz", which="best")


PATIENCE = 2


@pytest.fixture(scope="module")
def early(whole, tmp_path_factory):
    """A run that ends early, of the same seed as `whole`; and the same one, stopped in an epoch and started again."""
    result, place = whole[0], tmp_path_factory.mktemp("early")
    ema = 0.5 if "model_ema.safetensors" in names(result.run) else 0.0
    options = OPTIONS | dict(epochs=LONG, ema=ema, patience=PATIENCE)
    first = fit(TrainConfig(**options, out=place / "first"), quiet=True)

    class AfterSteps(StopRequest):
        asked = 0

        @property
        def stop_signal(self):
            self.asked += 1
            return STOP + signal.SIGTERM if self.armed and self.asked > 5 else 0

        @stop_signal.setter
        def stop_signal(self, value):
            pass

    with pytest.raises(Stopped):
        fit(TrainConfig(**options, out=place / "second"), quiet=True, stop=AfterSteps())
    second = fit(TrainConfig(**options, out=place / "second"), quiet=True)
    return options, first, second


@pytest.mark.slow
def test_a_run_ends_after_epochs_without_a_better_accuracy(whole, early):
    _, first, second = early
    result = whole[0]
    kind = [line for line in looks(result.run) if line["split"].startswith("validation")][-1]["split"]
    accuracies = [line["accuracy"] for line in looks(result.run) if line["split"] == kind]
    ended = next(n for n in range(1, LONG + 1) if int(np.argmax(accuracies[:n])) + PATIENCE == n - 1)
    assert ended < LONG
    assert first.summary["steps"] == 3 * ended
    assert first.summary["stopped_early"] == PATIENCE
    assert "stopped_early" not in result.summary
    for name in names(first.run):
        if name.endswith(".safetensors"):
            assert (first.run / name).read_bytes() == (second.run / name).read_bytes(), name
    assert looks(first.run) == looks(second.run)
    # Up to its end the run is the one without patience.
    assert (
        looks(first.run)[:-1]
        == [line for line in looks(result.run) if line["step"] <= 3 * ended][: len(looks(first.run)) - 1]
    )


@pytest.mark.slow
def test_an_ended_run_is_finished_and_goes_on_with_more_patience(whole, early, tmp_path, capsys):
    options, first, _ = early
    run = tmp_path / "run"
    shutil.copytree(first.run, run)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    fit(TrainConfig(**options, out=run))
    assert f"is finished: {first.summary['steps']} steps of {3 * LONG}, for its patience" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    (run / "summary.json").unlink()
    (run / "model.safetensors").unlink()
    fit(TrainConfig(**options, out=run), quiet=True)  # killed before its results
    assert looks(run) == looks(first.run)
    assert (run / "model.safetensors").read_bytes() == before["model.safetensors"]
    with pytest.raises(ValueError, match=r"differs in patience \(2 there, 99 now\)"):
        plan(TrainConfig(**options | dict(patience=99), out=run))
    longer = fit(plan(TrainConfig(**options | dict(patience=99), out=run), extend=True), quiet=True)
    for name in ("model.safetensors", "model_best.safetensors"):
        for one, other in zip(*map(flat_of(name), (longer.run, whole[0].run)), strict=True):
            np.testing.assert_array_equal(one, other)


def flat_of(name):
    return lambda run: [flat(load_model(run / name).variables)]


def test_patience_needs_a_validation_part(tmp_path):
    options = OPTIONS | dict(steps=2, validation_share=0.0, patience=3)
    with pytest.raises(ValueError) as error:
        plan(TrainConfig(**options, out=tmp_path))
    assert str(error.value) == (
        "patience is for data with a validation part, and fake:8x8x3:4:64 has none; --validation-share 0.1 holds a "
        "tenth of the train part out; given patience=3"
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("patience", 0, "patience must be a positive integer; given 0"),
        ("validation_share", 1.0, "validation_share must be"),
        ("validation_share", -0.1, "validation_share must be"),
        ("test_share", 0.0, "test_share must be over 0 and under 1; given 0.0"),
        ("test_share", 0.3, "test_share is for data without a test part, and 'fake:8x8x3:4:64' has one; given 0.3"),
        ("split_seed", -1, "split_seed must be from 0 to 4294967295; given -1"),
        (
            "validation_split",
            "val",
            "validation_split is for 'folder:PATH', and 'fake:8x8x3:4:64' is none; given 'val'",
        ),
    ],
)
def test_wrong_values_are_named(option, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(TrainConfig(**OPTIONS | {"steps": 2, option: value}))


@pytest.mark.slow
def test_a_run_has_no_best_weights_without_a_validation_part_or_before_it_was_looked_at(whole, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole[0].run / "config.json", run)
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        restore(run)
    with pytest.raises(ValueError, match=r"has no checkpoint yet, and no model_best.safetensors$"):
        restore(run, which="best")
    plain = fit(TrainConfig(**OPTIONS | dict(validation_share=0.0, steps=2), out=tmp_path / "plain"), quiet=True)
    assert "model_best.safetensors" not in names(plain.run)
    assert (plain.summary["tested_weights"], "validation_accuracy" in plain.summary) == ("last", False)
    with pytest.raises(ValueError, match=r"has no best weights; it was trained without a validation part$"):
        restore(plain.run, which="best")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Writes 600 images of three classes, of several sizes, which are streamed."""
    root = tmp_path_factory.mktemp("photos") / "PHOTOS"
    for label, (name, count) in enumerate((("cat", 300), ("größe", 199), ("猫", 101))):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng((label, index)).integers(0, 200, (8 + index % 2, 9, 3)) + 20 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.jpg")
    return root


def on_photos(photos, out, *more):
    network = ["--arch", "resnet20", "--width", "2", "--image-size", "8", "--epochs", "2"]
    return train_command.main([*network, "--data", f"folder:{photos}", "--out", str(out), *more])


@pytest.mark.slow
def test_six_hundred_photos_are_trained_on_as_they_lie(photos, tmp_path, capsys):
    assert on_photos(photos, tmp_path / "run") == 0
    assert "        split 80/20, seed 0: 480 train, 120 test" in capsys.readouterr().out.splitlines()
    rows = [line.split(",") for line in (tmp_path / "run" / "split.csv").read_text().splitlines()[1:]]
    counts = {(label, part): 0 for _, label, part in rows}
    for _, label, part in rows:
        counts[label, part] += 1
    for name, images in (("cat", 300), ("größe", 199), ("猫", 101)):
        assert abs(counts[f'"{name}"', '"test"'] - 0.2 * images) <= 1
        assert counts[f'"{name}"', '"test"'] + counts[f'"{name}"', '"train"'] == images
    split = (tmp_path / "run" / "split.csv").read_bytes()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["train_examples"], summary["test_examples"]) == (480, 120)
    # A start with photos that came since sees the same ones, and so does an evaluation.
    new = photos / "cat" / "new.jpg"
    shutil.copy(photos / "cat" / "0.jpg", new)
    try:
        assert on_photos(photos, tmp_path / "run") == 0
        assert on_photos(photos, tmp_path / "run", "--eval-only") == 0
        out, err = capsys.readouterr()
        assert "is finished" in out
        assert f"): {100 * summary['test_accuracy']:.2f} % (" in out
        assert "1 image ('cat/new.jpg') came after the split was drawn, and is left out" in err
    finally:
        new.unlink()
    for seed, same in ((0, True), (1, False)):
        config = TrainConfig("resnet20", data=f"folder:{photos}", image_size=8, seed=seed)
        drawn = plan(config).dataset.drawn
        listed = {row[0].strip('"'): row[2].strip('"') for row in rows}
        assert ({name: part for part, images in drawn.items() for name in images} == listed) == same
    assert (tmp_path / "run" / "split.csv").read_bytes() == split


@pytest.mark.slow
def test_a_folder_val_beside_test_is_for_validation_in_new_runs_alone(photos, tmp_path):
    root = tmp_path / "data"
    for part, places in (("train", range(8)), ("val", range(8, 10)), ("test", range(10, 12))):
        for name in ("cat", "猫"):
            (root / part / name).mkdir(parents=True)
            for index in places:
                shutil.copy(photos / name / f"{index}.jpg", root / part / name)
    options = dict(arch="resnet20", width=2, image_size=8, batch_size=8, steps=4, data=f"folder:{root}", lr=0.01)
    new = fit(TrainConfig(**options, test_image_size=16, out=tmp_path / "new"), quiet=True)
    assert {line["split"] for line in looks(new.run)} == {"validation", "test of best weights"}
    stored = json.loads((new.run / "config.json").read_text())
    assert stored["validation_examples"] == 4
    assert stored["validation_files"] != stored["test_files"]
    # A run that began before there was a validation part goes on without.
    older = tmp_path / "older"
    older.mkdir()
    known = {name: value for name, value in stored.items() if not name.startswith(("validation", "check_sum"))}
    known |= {"test_image_size": None}
    for name in ("split_seed", "patience", "test_share", "mark", "lengths", "random"):
        known.pop(name)
    (older / "config.json").write_text(json.dumps(known))
    job = plan(TrainConfig(**options, out=older))
    assert job.dataset.validation is None
    assert job.config.validation_split == "none"
    # Its photos for validation are compared as the others are.
    (root / "val" / "cat" / "8.jpg").rename(root / "val" / "cat" / "x.jpg")
    with pytest.raises(ValueError, match="differs in validation_files"):
        plan(TrainConfig(**options, test_image_size=16, out=new.run))
    shutil.rmtree(root / "val")
    with pytest.raises(ValueError, match="validation_examples"):
        plan(TrainConfig(**options, test_image_size=16, out=new.run))
    assert Path(new.run / "curves.png").is_file()
    other = TrainConfig(weights=str(new.run), data=f"folder:{root}", image_size=8, test_image_size=16)
    assert evaluate_run(other, quiet=True).accuracy == new.summary["test_accuracy"]
