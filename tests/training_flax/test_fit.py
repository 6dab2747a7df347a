"""A small run as a whole: its files, its reproducibility, and no hidden transfers."""

import json
import resource
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from densenet_flax import densenet_40_12
from resnet_flax import from_torch, resnet20
from training_flax import StopRequest, TrainConfig, evaluate, fit, open_dataset, plan, restore
from training_flax.data.loader import Loader
from training_flax.learn.evaluation import evaluate_part
from training_flax.learn.state import EvalResult
from training_flax.run.folder import write_config
from training_flax.run.programs import state_by_shape
from training_flax.runtime.devices import Devices
from weights_flax import ARCHS

LLVM = 1
FILES = {
    *("config.json", "metrics.jsonl", "summary.json", "batch.png", "curves.png", "confusion.png"),
    *("mistakes.png", "predictions.csv", "model.safetensors", "checkpoints", ".lock"),
}


OPTIONS = dict(steps=30, batch_size=64, lr=0.1)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Trains ResNet-20 for thirty steps, an epoch and a third."""
    return fit(TrainConfig("resnet20", **OPTIONS, out=tmp_path_factory.mktemp("runs") / "run"), quiet=True)


def test_what_a_run_leaves(result):
    assert {path.name for path in result.run.iterdir()} == FILES
    config = json.loads((result.run / "config.json").read_text())
    assert (config["arch"], config["steps"], config["epochs"], config["batch_size"]) == ("resnet20", 30, None, 64)
    assert config["normalisation"]["mean"] == pytest.approx(open_dataset("digits").mean)
    summary = json.loads((result.run / "summary.json").read_text())
    assert summary == result.summary
    assert (summary["train_examples"], summary["test_examples"], summary["parameters"]) == (1437, 360, 75_290)
    assert summary["images_per_second"] > 0
    assert summary["compile_seconds"] > 0
    for name in ("batch.png", "curves.png", "confusion.png", "mistakes.png"):
        assert (result.run / name).read_bytes().startswith(b"\x89PNG")


def test_metrics_are_written_ten_times_an_epoch_and_after_each(result):
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    tests = [line for line in lines if line["split"] == "test"]
    assert [line["step"] for line in tests] == [23, 30]
    assert tests[-1]["accuracy"] == result.summary["test_accuracy"]
    train = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train] == [*range(2, 23, 2), 23, 25, 27, 29, 30]
    assert train[0]["learning_rate"] == pytest.approx(0.1 / 3)
    assert train[-1]["epoch"] == pytest.approx(30 * 64 / 1437)
    assert train[-1]["loss"] < train[0]["loss"]


def test_weights_are_readable_by_either_side(result):
    model = resnet20()
    variables = from_torch(model, load_file(result.run / "model.safetensors"))
    chex.assert_trees_all_equal(jax.device_get(result.variables), variables)
    with safe_open(result.run / "model.safetensors", "numpy") as file:
        model_of = json.loads(file.metadata()["model"])
    assert (model_of["arch"], model_of["num_classes"]) == ("resnet20", 10)
    assert model_of["class_names"] == list("0123456789")


@pytest.mark.slow
def test_the_newest_checkpoint_holds_the_last_state(result):
    model, variables = restore(result.run)
    chex.assert_trees_all_equal(variables, jax.device_get(result.variables))
    evaluation = evaluate(model, variables, open_dataset("digits"), batch_size=50)
    assert evaluation.accuracy == result.summary["test_accuracy"]
    assert evaluation.loss == pytest.approx(result.summary["test_loss"], rel=1e-5)


@pytest.mark.slow
def test_the_same_options_give_the_same_weights(result, tmp_path):
    again = fit(TrainConfig("resnet20", **OPTIONS, out=tmp_path / "run"), quiet=True)
    first, second = ((run / "model.safetensors").read_bytes() for run in (result.run, again.run))
    assert first == second


@pytest.mark.slow
def test_a_run_tells_what_it_found(tmp_path, capsys):
    fit(TrainConfig("resnet20", steps=1, out=tmp_path / "run"))
    out = capsys.readouterr().out
    for told in ("1 × cpu", "resnet20, 75,290 parameters", "1,437 train and 360 test images", "compil", "epoch 1/1"):
        assert told in out
    assert str(tmp_path / "run") in out


@pytest.mark.parametrize("batch_size", [7, 90, 360, 400])
def test_evaluation_counts_every_example_once(batch_size):
    """Evaluates a network that predicts 1 for every third image, with any batch size."""
    part = open_dataset("digits").test
    seen = []

    def step(batch):
        indices = np.asarray(batch.examples)
        seen.append(indices)
        guesses = (indices % 3 == 0).astype(np.int32)
        return EvalResult(indices.astype(np.float32), guesses, (indices / 360).astype(np.float32), indices % 10)

    evaluation = evaluate_part(step, part, batch_size, Devices())
    assert {len(indices) for indices in seen} == {batch_size}
    assert evaluation.loss == pytest.approx(np.arange(360).mean())
    expected = (np.arange(360) % 3 == 0).astype(np.int32)
    np.testing.assert_array_equal(evaluation.predictions, expected)
    np.testing.assert_array_equal(evaluation.probabilities, (np.arange(360) / 360).astype(np.float32))
    np.testing.assert_array_equal(evaluation.ranks, np.arange(360) % 10)
    assert evaluation.top(5) == 0.5
    assert evaluation.accuracy == np.mean(expected == np.asarray(part.labels))


def test_a_hidden_transfer_in_the_loop_is_an_error():
    """The loop's transfer guard refuses hidden transfers, and accepts the loader's batches."""
    step = jax.jit(lambda batch: batch.examples.sum())
    loader = Loader(open_dataset("digits").train, range(2), 16, 0, Devices())
    with jax.transfer_guard("disallow"):
        for batch in loader:
            assert jax.device_get(step(batch)) > 0
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            step(loader.rows(0))


def test_restore_names_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="is no run: it has no config"):
        restore(tmp_path)
    job = plan(TrainConfig("resnet20", out=tmp_path / "run"))
    job.run.mkdir()
    write_config(job.run, job.config, job.dataset, job.mark)
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        restore(job.run)


@pytest.fixture
def two_layers_a_block(monkeypatch):
    """Makes densenet_40_12 with two layers per block, not twelve, which compiles in a fifth of the time."""
    shallow = wraps(densenet_40_12)(partial(densenet_40_12, block_sizes=(2, 2, 2)))
    monkeypatch.setitem(ARCHS, "densenet_40_12", shallow)


@pytest.mark.slow
def test_a_run_by_a_recipe_with_options_of_other_networks_is_restored(two_layers_a_block, tmp_path):
    options = dict(growth_rate=2, steps=1, batch_size=8, image_size=16, recipe="goyal2017", augment=())
    result = fit(TrainConfig("densenet_40_12", "fake:16x16x3:2:16", **options, out=tmp_path / "run"), quiet=True)
    model, variables = restore(result.run)
    assert model.growth_rate == 2
    chex.assert_trees_all_equal(variables, jax.device_get(result.variables))


def test_a_finished_run_is_left_as_it_is(result, capsys):
    before = {path: path.stat().st_mtime_ns for path in result.run.rglob("*")}
    again = fit(TrainConfig("resnet20", **OPTIONS, out=result.run))
    assert "is finished: 30 steps" in capsys.readouterr().out
    assert again.summary == result.summary
    chex.assert_trees_all_equal(again.variables, jax.device_get(result.variables))
    assert {path: path.stat().st_mtime_ns for path in result.run.rglob("*")} == before


@pytest.mark.slow
def test_averaged_weights_are_evaluated_and_left_too(tmp_path):
    result = fit(TrainConfig("resnet20", width=4, steps=12, ema=0.5, out=tmp_path / "run"), quiet=True)
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines if line["split"] != "train"] == ["test", "test of averaged weights"]
    assert result.summary["test_accuracy"] == lines[-1]["accuracy"]
    raw, average = (load_file(result.run / f"{name}.safetensors") for name in ("model", "model_ema"))
    assert raw.keys() == average.keys()
    assert not np.array_equal(raw["fc.weight"], average["fc.weight"])


@pytest.mark.slow
def test_fine_tuning_starts_from_weights_and_leaves_what_is_frozen(result, tmp_path):
    options = dict(steps=3, batch_size=32, freeze=("conv1/*", "layer1_*"), frozen_batch_norm=True)
    tuned = fit(TrainConfig("resnet20", weights=result.run, out=tmp_path / "run", **options), quiet=True)
    before, after = (load_file(run / "model.safetensors") for run in (result.run, tuned.run))
    for name, tensor in before.items():
        still = name.startswith(("conv1.", "layer1.")) or "running" in name
        assert (tensor.tobytes() == after[name].tobytes()) == still, name


@pytest.mark.slow
def test_options_reach_the_network_of_a_restored_run(two_layers_a_block, tmp_path):
    config = TrainConfig("densenet_40_12", growth_rate=2, dropout=0.1, steps=1, batch_size=8, out=tmp_path / "run")
    result = fit(config, quiet=True)
    model, variables = restore(result.run)
    assert (model.growth_rate, model.dropout) == (2, 0.1)
    chex.assert_trees_all_equal(variables, jax.device_get(result.variables))


@pytest.mark.slow
def test_blocks_that_run_as_a_loop_train_as_one_and_are_left_block_by_block(nine_blocks, tmp_path, monkeypatch):
    """ResNet-1202 needs this layout, which compiles in a tenth of the time; here with 20 layers."""

    def run(name, scan):
        made = wraps(resnet20)(lambda **options: resnet20(width=4, scan=scan, **options))
        monkeypatch.setitem(ARCHS, "resnet20", made)
        return fit(TrainConfig("resnet20", steps=3, batch_size=32, ema=0.5, out=tmp_path / name), quiet=True)

    config = TrainConfig("resnet20", steps=3, batch_size=32, out=tmp_path / "none")
    plain = run("plain", False)
    assert "layer1_2" in state_by_shape(plan(config)).params
    looped = run("looped", True)
    assert {"layer1_0", "layer1_rest", "layer3_rest"} < state_by_shape(plan(config)).params.keys()
    for options in (dict(freeze=("layer1_2/*",)), dict(optimizer="lamb"), dict(drop_path=0.1)):
        assert "layer1_2" in state_by_shape(plan(replace(config, **options))).params, options
    # In three steps of float32 the gradients are sums in another order.
    chex.assert_trees_all_close(looped.variables, plain.variables, rtol=1e-3, atol=1e-4)
    for name in ("model", "model_ema"):
        ours, theirs = (load_file(one.run / f"{name}.safetensors") for one in (looped, plain))
        assert ours.keys() == theirs.keys()
    chex.assert_trees_all_equal(restore(looped.run, which="last")[1], jax.device_get(looped.variables))
    averaged = restore(looped.run)[1]
    chex.assert_trees_all_equal_shapes(averaged, plain.variables)
    (looped.run / "summary.json").unlink()
    chex.assert_trees_all_equal(run("looped", True).variables, looped.variables)  # from the last checkpoint
    tuned = fit(TrainConfig("resnet20", steps=1, batch_size=8, weights=plain.run, out=tmp_path / "tuned"), quiet=True)
    assert np.isfinite(tuned.summary["test_loss"])


@pytest.mark.slow
def test_memory_is_flat_over_500_steps(tmp_path):
    """The process's memory after 600 steps equals that after 100, within a few pages."""
    pages = []

    class Watch(StopRequest):
        @property
        def stop_signal(self):
            pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
            return 0

        @stop_signal.setter
        def stop_signal(self, value):
            pass

    options = dict(width=2, steps=600, batch_size=16, mixup=0.2)
    fit(TrainConfig("resnet20", "fake:8x8x3:10:9600", **options, out=tmp_path / "run"), quiet=True, stop=Watch())
    assert len(pages) >= 600
    grown = (pages[599] - pages[99]) * resource.getpagesize()
    assert grown < 20e6, f"{grown / 1e6:.1f} MB"
