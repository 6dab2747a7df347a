"""The weights of one run by every door: the same to the bit, with averages and without, finished or not."""

import shutil
import sys

import jax
import numpy as np
import pytest
from drawn import check_same
from PIL import Image

import training_flax.inference.trained as trained
from training_flax import TrainConfig, evaluate_run, fit, plan, restore
from training_flax.inference.command import main as predict_main
from training_flax.learn.starting_weights import starting_weights
from weights_flax import load_model, load_weights
from weights_flax.__main__ import main as weights_main

OPTIONS = dict(arch="resnet20", width=2, data="fake:8x8x3:4:32", batch_size=16, augment=(), schedule="constant")
OPTIONS |= dict(warmup=0.0)
EVALUATE = sys.modules["training_flax.evaluate"]
FILES = {"averaged": "model_ema.safetensors", "last": "model.safetensors"}


@pytest.fixture(scope="module", params=[0.0, 0.5], ids=["without averages", "with averages"])
def finished(request, tmp_path_factory):
    """A run, its kinds of weights by the names of their files, and the weights by kind."""
    run = tmp_path_factory.mktemp("which") / "run"
    result = fit(TrainConfig(**OPTIONS, steps=4, ema=request.param, out=run), quiet=True)
    weights = {"last": jax.device_get(result.variables)}
    if request.param:
        weights["averaged"] = load_weights(result.model, run / FILES["averaged"])
        assert not np.array_equal(*(kind["params"]["fc"]["kernel"] for kind in weights.values()))
    return run, result.model, weights


def unfinished(run):
    for name in (*FILES.values(), "summary.json"):
        (run / name).unlink(missing_ok=True)


STATES = {
    "finished": lambda run: None,
    "not finished": unfinished,
    "without the averaged file": lambda run: (run / FILES["averaged"]).unlink(missing_ok=True),
    "without the last file": lambda run: (run / FILES["last"]).unlink(),
}


def by_restore(run, which, folder):
    return restore(run, which=which)[1]


def by_load_model(run, which, folder):
    return load_model(run, which=which).variables


def by_load_weights(run, which, folder):
    return load_weights(load_model(run).model, run, which=which)


def by_predict(run, which, folder):
    return trained.network_of_run(run, "float32", which).variables


def by_evaluation(run, which, folder):
    seen = []

    def evaluate(model, variables, *args, **options):
        seen.append(variables)
        return real(model, variables, *args, **options)

    real = EVALUATE.evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EVALUATE, "evaluate", evaluate)
        evaluate_run(TrainConfig(**OPTIONS, which=which, out=run), quiet=True)
    return seen[0]


def by_starting(run, which, folder):
    job = plan(TrainConfig(**OPTIONS, steps=2, weights=str(run), which=which, out=folder / "next"))
    return starting_weights(job.config, job.eval_model)


def by_command(*words):
    def door(run, which, folder):
        out = folder / "out.pth"
        arguments = [word.format(run=run, out=out) for word in words] + (["--which", which] if which else [])
        assert weights_main(arguments) == 0
        return load_weights(load_model(run).model, out)

    return door


DOORS = {
    "restore": by_restore,
    "load_model": by_load_model,
    "load_weights": by_load_weights,
    "predict": by_predict,
    "--eval-only": by_evaluation,
    "--weights": by_starting,
    "export": by_command("export", "--run", "{run}", "--format", "torch", "--out", "{out}"),
    "convert": by_command("convert", "{run}", "--out", "{out}"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("state", STATES)
def test_the_same_weights_to_the_bit(state, door, finished, tmp_path):
    run, weights = shutil.copytree(finished[0], tmp_path / "run"), finished[2]
    STATES[state](run)
    rule = weights.get("averaged", weights["last"])
    for which, expected in ((None, rule), *weights.items()):
        check_same(jax.device_get(DOORS[door](run, which, tmp_path)), expected)


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_exports_of_a_run_hold_its_weights(format, finished, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnx")
    run = finished[0]
    name = FILES["averaged" if "averaged" in finished[2] else "last"]
    for source, out in ((["--run", str(run)], "one"), (["--weights", str(run / name)], "two")):
        assert weights_main(["export", *source, "--format", format, "--out", str(tmp_path / out)]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_averaged_weights_are_asked_for_by_the_old_keyword_too(finished):
    run, _, weights = finished
    check_same(jax.device_get(restore(run, averaged=False)[1]), weights["last"])
    if "averaged" in weights:
        check_same(jax.device_get(restore(run, averaged=True)[1]), weights["averaged"])
    else:
        with pytest.raises(ValueError, match=r"has no averaged weights; it was trained with ema 0$"):
            restore(run, averaged=True)
    with pytest.raises(ValueError, match="give which or averaged, not both; given which='last', averaged=True"):
        restore(run, which="last", averaged=True)


def test_commands_say_which_weights_they_took(finished, tmp_path, capsys):
    run, _, weights = finished
    kind = "averaged" if "averaged" in weights else "last"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert predict_main(["--run", str(run), str(tmp_path / "x.png")]) == 0
    assert f"predict: {kind} weights after step 4 of {run}\n" in capsys.readouterr().err
    assert weights_main(["inspect", str(run)]) == 0
    assert f"run       {kind} weights after step 4 of run " in capsys.readouterr().out
    evaluate_run(TrainConfig(**OPTIONS, out=run))
    said = " of the averaged weights" if kind == "averaged" else ""
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"test accuracy{said} ")
    evaluate_run(TrainConfig(**OPTIONS, which="last", out=run))
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy of the last weights ")


@pytest.mark.slow
def test_a_run_that_was_extended_and_stopped_gives_its_newest_weights(finished, tmp_path):
    """Its files are those of its first end; what they hold is older than the newest checkpoint."""
    run, model, weights = finished
    longer = shutil.copytree(run, tmp_path / "run")
    ema = 0.5 if "averaged" in weights else 0.0
    fit(plan(TrainConfig(**OPTIONS, steps=6, ema=ema, out=longer), extend=True), quiet=True)
    kind = "averaged" if ema else "last"
    newest = load_weights(model, longer / FILES[kind])
    shutil.copy(run / FILES[kind], longer / FILES[kind])
    (longer / "summary.json").unlink()
    check_same(load_model(longer).variables, newest)
    assert load_model(longer).card["run"]["step"] == 6


@pytest.mark.slow
def test_weights_of_another_run_are_refused(finished, tmp_path):
    run, _, weights = finished
    mixed = shutil.copytree(run, tmp_path / "run")
    ema = 0.5 if "averaged" in weights else 0.0
    other = fit(TrainConfig(**OPTIONS, steps=4, ema=ema, seed=1, out=tmp_path / "other"), quiet=True).run
    kind = "averaged" if ema else "last"
    shutil.copy(other / FILES[kind], mixed / FILES[kind])
    for door in (by_restore, by_load_model, by_predict, by_evaluation):
        with pytest.raises(ValueError, match=rf"^weights '.*{FILES[kind]}' belong to another run than config.json"):
            door(mixed, None, tmp_path)
