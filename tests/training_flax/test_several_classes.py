"""Runs on images that may have several classes: trained, killed, resumed, evaluated, predicted, exported and served."""

import csv
import http.client
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, precision_recall_fscore_support

from resnet_flax import resnet20
from theory_flax.base.options import Options
from theory_flax.experiments.networks import dataset_of as theory_data
from training_flax import (
    Batches,
    Stopped,
    StopRequest,
    TrainConfig,
    evaluate_run,
    fit,
    normalise,
    open_dataset,
    plan,
    predict,
    restore,
    train_command,
)
from training_flax.compare import main as compare
from training_flax.config.run_config import read_config
from training_flax.inference.classifier import WORTH_FOLDING
from training_flax.inference.command import main as predict_command
from training_flax.run.plan import images_of_run
from training_flax.runtime.signals import STOP
from weights_flax import export, load_model, read_card, read_export_card
from weights_flax.__main__ import main as weights_command

ROOT = Path(__file__).parents[2]
CLASSES = ("red", "green", "blue")
TINY = dict(arch="resnet20", width=4, batch_size=16, epochs=3, lr=0.05, validation_share=0.2)


def squares(count, seed=0, size=16):
    """Draws dark noise with a red, a green and a blue square, each there or not."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, size, size, 3)).astype(np.uint8)
    labels = (rng.random((count, 3)) < 0.5).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        for channel in np.flatnonzero(label):
            y, x = rng.integers(0, size - 5, 2)
            image[y : y + 5, x : x + 5] = 20
            image[y : y + 5, x : x + 5, channel] = 230
    return images, labels


def write(folder, images, labels):
    """Writes images of squares and two tables of them; returns the name of the data."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{index}.png" for index in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name)
    cells = ["|".join(CLASSES[each] for each in np.flatnonzero(label)) for label in labels]
    lines = ["path,label", *(f"{name},{cell}" for name, cell in zip(names, cells, strict=True))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    lines = ["image_id,red,green,blue"]
    lines += [
        f"{name},{','.join(str(2 * int(value) - 1) for value in label)}"
        for name, label in zip(names, labels, strict=True)
    ]
    (folder / "columns.csv").write_text("\n".join(lines) + "\n")
    return f"csv:{folder / 'labels.csv'}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "squares", *squares(96))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    return fit(TrainConfig(**TINY, data=data, out=tmp_path_factory.mktemp("runs") / "run"), quiet=True)


@pytest.fixture(scope="module")
def logits(finished):
    """The logits of the best weights for the test images, computed without the evaluation step."""
    dataset = images_of_run(TrainConfig(out=finished.run))[1]
    model, variables = restore(finished.run)
    images = normalise(jnp.asarray(dataset.test.images), dataset.mean, dataset.std)
    return np.asarray(model.apply(variables, images, train=False)), dataset


def test_a_table_of_columns_has_the_same_images(data):
    cells, columns = open_dataset(data), open_dataset(data.replace("labels", "columns"))
    assert (cells.class_names, columns.class_names) == (("blue", "green", "red"), CLASSES)
    for one, other in ((cells.train, columns.train), (cells.test, columns.test)):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels[:, ::-1], other.labels)
    assert cells.notes == ("'|' stands between the classes of an image", "split 80/20, seed 0: 77 train, 19 test")
    assert columns.notes[0] == "each class has a column of its own"


def test_a_class_without_train_images_is_refused(data, tmp_path):
    folder = Path(data.removeprefix("csv:")).parent
    text = (folder / "columns.csv").read_text().splitlines()
    (folder / "none.csv").write_text("\n".join([f"{text[0]},black", *(f"{line},-1" for line in text[1:])]))
    with pytest.raises(ValueError, match=r"none.csv': class 'black' has no train image$"):
        open_dataset(f"csv:{folder / 'none.csv'}")


def test_the_summary_has_the_scores_of_scikit_learn(finished, logits):
    (found, dataset), summary = logits, json.loads((finished.run / "summary.json").read_text())
    labels = dataset.test.labels
    assert summary["test_accuracy"] == pytest.approx(accuracy_score(labels, found > 0), rel=1e-12)
    assert summary["mean_average_precision"] == pytest.approx(average_precision_score(labels, found), rel=1e-12)
    expected = precision_recall_fscore_support(labels, found > 0, average=None, zero_division=0)
    each = average_precision_score(labels, found, average=None)
    assert list(summary["per_class"]) == ["blue", "green", "red"]
    for number, scores in enumerate(summary["per_class"].values()):
        wanted = [*(values[number] for values in expected), each[number]]
        names = ("precision", "recall", "f1", "support", "average_precision")
        assert [scores[name] for name in names] == pytest.approx(wanted, rel=1e-12)
    assert {"best_accuracy", "validation_accuracy", "top5_accuracy"}.isdisjoint(summary)
    assert summary["validation_mean_average_precision"] == summary["best_mean_average_precision"]


def metrics_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_best_weights_have_the_best_mean_average_precision(finished):
    lines = [line for line in metrics_of(finished.run) if line["split"] == "validation"]
    best = max(lines, key=lambda line: line["mean_average_precision"])
    assert finished.summary["best_step"] == best["step"]
    assert finished.summary["best_mean_average_precision"] == best["mean_average_precision"]
    (last,) = [line for line in metrics_of(finished.run) if line["split"] == "test of best weights"]
    assert last["mean_average_precision"] == finished.summary["mean_average_precision"]
    assert last["accuracy"] == finished.summary["test_accuracy"]
    assert read_card(finished.run / "model_best.safetensors")["run"]["step"] == best["step"]


def test_the_run_says_that_images_have_several_classes(finished):
    config, card = read_config(finished.run), read_card(finished.run / "model.safetensors")
    assert (config["multi_label"], card["multi_label"], config["loss"]) == (True, True, "binary")
    assert {path.name for path in finished.run.glob("*.png")} == {"batch.png", "curves.png", "mistakes.png"}
    with (finished.run / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = dict(line.split(",") for line in Path(config["data"][4:]).read_text().splitlines()[1:])
    for row in rows:
        assert set(row["label"].split("|")) == set(table[row["image"]].split("|"))


def test_predictions_are_those_of_the_network(finished, logits):
    found, dataset = logits
    with (finished.run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shares = [[float(row[f"probability of {name}"]) for name in dataset.class_names] for row in rows]
    # Probabilities of another batch size differ within rounding of the logits, whose size is a few tens at most.
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-found.astype(float))), atol=1e-5)
    assert [row["guess"] for row in rows] == [dataset.named(label) for label in (found > 0).astype(int)]
    assert [row["truth"] for row in rows] == [dataset.named(label) for label in dataset.test.labels]


def test_a_finished_run_stays_and_what_is_missing_comes_back(finished, tmp_path, capsys):
    run = shutil.copytree(finished.run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert train_command.main(["--out", str(run)]) == 0
    assert "is finished: 12 steps; its results are in summary.json" in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    (run / "predictions.csv").unlink()
    assert fit(TrainConfig(out=run), quiet=True).summary["test_accuracy"] == finished.summary["test_accuracy"]
    assert (run / "predictions.csv").read_bytes() == before["predictions.csv"]


PROGRAM = """
import os, signal, sys
from training_flax import TrainConfig, fit

class Killer:
    def on_checkpoint(self, run):  # a run with this waits until its checkpoints are on the disk
        pass

    def on_step(self, run):
        if run.step == 6:
            os.kill(os.getpid(), signal.SIGKILL)

how, out, data = sys.argv[1:]
options = dict(arch="resnet20", width=4, batch_size=16, epochs=3, lr=0.05, validation_share=0.2, data=data)
if how == "goes on":
    options = {}
fit(TrainConfig(**options, out=out), callbacks=[Killer()] if how == "killed" else [], quiet=True)
"""


def assert_same(ours, theirs):
    """Asserts that two runs have the same weights, scores and predictions, bit for bit."""
    for name in ("model.safetensors", "model_best.safetensors"):
        (model, one, _), (_, other, _) = (load_model(run / name) for run in (ours, theirs))
        jax.tree.map(np.testing.assert_array_equal, one, other)
        assert model.num_classes == 3
    left = ("test_accuracy", "test_loss", "mean_average_precision", "per_class", "best_step", "mark")
    one, other = (json.loads((run / "summary.json").read_text()) for run in (ours, theirs))
    assert {name: one[name] for name in left} == {name: other[name] for name in left}
    assert (ours / "predictions.csv").read_bytes() == (theirs / "predictions.csv").read_bytes()


@pytest.mark.slow
def test_killed_and_called_again_it_ends_with_the_same_weights(nine_blocks, data, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for how, out, code in (("whole", whole, 0), ("killed", broken, -signal.SIGKILL), ("goes on", broken, 0)):
        command = [sys.executable, "-c", PROGRAM, how, str(out), data]
        assert subprocess.run(command, env=environment, check=False, timeout=300).returncode == code
        if how == "killed":
            assert not (broken / "summary.json").exists()
            assert list((broken / "checkpoints").glob("[1-5]"))
    assert_same(broken, whole)


class Stopper:
    """Asks a run to stop within its second epoch."""

    def __init__(self, stop):
        self.stop = stop

    def on_step(self, run):
        if run.step == 6:
            self.stop.stop_signal = STOP + signal.SIGTERM


@pytest.mark.slow
def test_stopped_and_called_again_it_ends_with_the_same_weights(finished, data, tmp_path):
    run, stop = tmp_path / "run", StopRequest()
    with pytest.raises(Stopped):
        fit(TrainConfig(**TINY, data=data, out=run), callbacks=[Stopper(stop)], quiet=True, stop=stop)
    assert (run / "checkpoints" / "7").is_dir() or (run / "checkpoints" / "6").is_dir()
    fit(TrainConfig(out=run), quiet=True)
    assert_same(run, finished.run)


@pytest.mark.slow
def test_patience_is_of_mean_average_precision(data, tmp_path, capsys):
    words = ["--arch", "resnet20", "--width", "2", "--batch-size", "16", "--epochs", "4", "--lr", "1e-30"]
    words += [
        "--data",
        data,
        "--validation-share",
        "0.2",
        "--patience",
        "1",
        "--frozen-batch-norm",
        "--augment",
        "none",
    ]
    assert train_command.main([*words, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "no better validation mean average precision in 1 epochs: the end\n" in out
    assert "3 classes, none, one or several an image\n" in out
    assert " right in all classes), loss " in out
    assert "weights and curves are in " in out
    assert "commonest wrong label: " in out


def test_an_evaluation_of_the_run_gives_its_own_numbers(finished, capsys):
    found = evaluate_run(TrainConfig(out=finished.run))
    assert found.accuracy == finished.summary["test_accuracy"]
    assert found.mean_average_precision == finished.summary["mean_average_precision"]
    assert capsys.readouterr().out.endswith(f", mean average precision {100 * found.score:.2f} %\n")
    file = finished.run / "model_best.safetensors"
    assert evaluate_run(TrainConfig(weights=str(file)), quiet=True).accuracy == found.accuracy


@pytest.mark.slow
def test_weights_and_data_must_be_of_one_kind(finished, tmp_path, data):
    with pytest.raises(ValueError, match=r"^an image may have several classes by weights '.*', and an image of digits"):
        evaluate_run(TrainConfig(weights=str(finished.run), data="digits"))
    one = fit(TrainConfig("resnet20", width=2, steps=1, data="fake:16x16x3:3", out=tmp_path / "one"), quiet=True)
    with pytest.raises(ValueError, match=r"^an image has one class by weights '.*', and an image of csv:.* may have"):
        evaluate_run(TrainConfig(weights=str(one.run), data=data))
    assert "multi_label" not in json.loads((one.run / "config.json").read_text())
    assert "multi_label" not in read_card(one.run / "model.safetensors")
    assert "mean_average_precision" not in one.summary


def test_other_labels_are_another_run(finished, tmp_path):
    images, labels = squares(96)
    data = write(tmp_path / "squares", images, labels)
    plan(TrainConfig(out=finished.run, data=data))  # the same, elsewhere
    write(tmp_path / "squares", images, 1 - labels)
    with pytest.raises(ValueError, match=r"holds another run, which differs in .*_labels"):
        plan(TrainConfig(out=finished.run, data=data))
    table = tmp_path / "squares" / "labels.csv"
    table.write_text(table.read_text().replace("|", "-"))
    with pytest.raises(ValueError, match=r"line [0-9]+ has no label"):
        plan(TrainConfig(out=finished.run, data=data))
    table.write_text("\n".join(line + "red" if line.endswith(",") else line for line in table.read_text().splitlines()))
    with pytest.raises(ValueError, match="holds another run, which differs in "):
        plan(TrainConfig(out=finished.run, data=data))


@pytest.mark.slow
def test_a_run_of_one_class_an_image_does_not_go_on_with_several(tmp_path):
    images, labels = squares(48)
    data = write(tmp_path / "squares", images, np.eye(3, dtype=np.uint8)[np.arange(48) % 3])
    options = dict(arch="resnet20", width=2, batch_size=16, steps=1, recipe="quick-digits")
    run = fit(TrainConfig(**options, data=data, out=tmp_path / "run"), quiet=True).run
    assert read_config(run)["loss"] == "softmax"
    write(tmp_path / "squares", images, labels)
    for config in (TrainConfig(out=run), TrainConfig(**options, data=data, out=run)):
        with pytest.raises(ValueError, match="holds another run, which differs in "):
            plan(config)


def test_each_class_is_predicted_by_its_own_probability(finished, logits, tmp_path, capsys):
    found, dataset = logits
    expected = 1 / (1 + np.exp(-found.astype(float)))
    model, variables, card = load_model(finished.run)
    about = dict(**card["normalisation"], multi_label=card["multi_label"])
    for images in (dataset.test.images, dataset.test_paths):
        size = {} if images is dataset.test.images else {"image_size": 16}
        probabilities, classes = predict(model, variables, images, **about, **size)
        assert probabilities.shape == (len(found), 3)
        np.testing.assert_allclose(np.take_along_axis(expected, classes, 1), probabilities, atol=1e-5)
        assert (np.diff(probabilities, axis=1) <= 0).all()
    assert probabilities.sum(1).max() > 1.01  # no softmax
    for source in (["--run", str(finished.run)], ["--weights", str(finished.run / "model_best.safetensors")]):
        assert predict_command([*source, "--json", dataset.test_paths[0]]) == 0
        said = capsys.readouterr()
        assert "an image may have several classes, or none: each has a probability of its own\n" in said.err
        shares = {entry["class"]: entry["probability"] for entry in json.loads(said.out)["classes"]}
        assert [shares[name] for name in card["class_names"]] == pytest.approx(expected[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_an_export_from_pixels_has_sigmoid_inside(format, finished, logits, tmp_path):
    found, dataset = logits
    out = tmp_path / "net"
    words = ["export", "--run", str(finished.run), "--format", format, "--from-pixels", "--out", str(out)]
    assert weights_command(words) == 0
    card = read_export_card(out)
    assert (card.multi_label, card.output, card.class_names) == (True, "probabilities", dataset.class_names)
    images = dataset.test.images[:5]
    if format == "onnx":
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        assert session.get_modelmeta().custom_metadata_map["multi_label"] == "true"
        (shares,) = session.run(["probabilities"], {"images": images.transpose(0, 3, 1, 2)})
    else:
        shares = jax.export.deserialize(bytearray(out.read_bytes())).call(images)
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-found[:5].astype(float))), atol=1e-5)


@pytest.mark.slow
def test_an_export_of_one_class_an_image_has_softmax_still(tmp_path):
    model, variables, _ = load_model(fit(TrainConfig("resnet20", width=2, steps=1, out=tmp_path / "r"), quiet=True).run)
    card = {"normalisation": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    export(model, variables, tmp_path / "n", format="onnx", image_shape=(32, 32, 3), card=card, from_pixels=True)
    session = onnxruntime.InferenceSession(tmp_path / "n", providers=["CPUExecutionProvider"])
    (shares,) = session.run(["probabilities"], {"images": np.zeros((2, 3, 32, 32), np.uint8)})
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert "multi_label" not in session.get_modelmeta().custom_metadata_map
    assert read_export_card(tmp_path / "n").multi_label is None


def test_a_server_gives_all_classes(finished, logits, tmp_path):
    found, dataset = logits
    words = [
        "export",
        "--run",
        str(finished.run),
        "--format",
        "onnx",
        "--from-pixels",
        "--out",
        str(tmp_path / "net.onnx"),
    ]
    assert weights_command(words) == 0
    server = runpy.run_path(str(ROOT / "examples" / "serve.py"))["server"](str(tmp_path / "net.onnx"), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        Image.fromarray(dataset.test.images[0]).save(body := io.BytesIO(), "PNG")
        connection.request("POST", "/", body.getvalue())
        answer = json.loads(connection.getresponse().read())["classes"]
        connection.close()
    finally:
        server.shutdown()
        server.server_close()
    shares = {each["class"]: each["probability"] for each in answer}
    wanted = 1 / (1 + np.exp(-found[0].astype(float)))
    assert [shares[name] for name in dataset.class_names] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_a_converted_file_says_the_same(finished, logits, tmp_path):
    found, dataset = logits
    assert (
        weights_command(["convert", str(finished.run / "model_best.safetensors"), "--out", str(tmp_path / "n.npz")])
        == 0
    )
    model, variables, card = load_model(tmp_path / "n.npz")
    assert card["multi_label"] is True
    # Over 255 images the network is folded first.
    images = np.tile(dataset.test.images, (16, 1, 1, 1))
    assert len(images) >= WORTH_FOLDING
    probabilities, classes = predict(model, variables, images, **card["normalisation"], multi_label=True)
    expected = 1 / (1 + np.exp(-np.tile(found.astype(float), (16, 1))))
    np.testing.assert_allclose(np.take_along_axis(expected, classes, 1), probabilities, atol=1e-4)


def test_almost_sure_classes_keep_their_order():
    """Probabilities of logits over 17 are 1 in float32."""
    model = resnet20(num_classes=3, width=2)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    head = {"kernel": jnp.zeros_like(variables["params"]["fc"]["kernel"]), "bias": jnp.array([30.0, 50.0, 40.0])}
    variables = {**variables, "params": {**variables["params"], "fc": head}}
    images = np.zeros((2, 32, 32, 3), np.uint8)
    probabilities, classes = predict(model, variables, images, mean=[0.5], std=[0.5], multi_label=True)
    assert (probabilities == 1).all()
    assert classes.tolist() == [[1, 2, 0], [1, 2, 0]]


def test_claims_of_the_theory_refuse_such_data(finished):
    with pytest.raises(ValueError, match=r"^claims are measured on images of one class each; those of csv:.* may have"):
        theory_data(Options("shattering", run=finished.run))


def test_a_comparison_has_mean_average_precision(finished, tmp_path, capsys):
    assert compare([str(finished.run), "--out", str(tmp_path / "c.png")]) == 0
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert "best mean AP" in head
    assert f"{100 * finished.summary['best_mean_average_precision']:.2f} %" in row


@pytest.mark.slow
def test_streamed_and_mixed_images_with_weights_of_classes_are_trained_and_evaluated(tmp_path):
    """Images of several sizes, mixed with their neighbours, with averaged weights."""
    images, labels = squares(48)
    folder = tmp_path / "squares"
    data = write(folder, images, labels)
    Image.fromarray(images[0]).resize((20, 24)).save(folder / "0.png")
    options = TINY | dict(epochs=None, steps=2, image_size=16, mixup=0.2, cutmix=1.0, class_weights="balanced")
    run = fit(TrainConfig(**options, data=data, ema=0.5, out=tmp_path / "run"), quiet=True)
    assert run.summary["tested_weights"] == "best"
    assert all(line["loss"] is not None for line in metrics_of(run.run))
    assert evaluate_run(TrainConfig(out=run.run), quiet=True).score == run.summary["mean_average_precision"]


@pytest.mark.slow
def test_batches_and_a_loss_of_ones_own(tmp_path):
    images, labels = squares(48)
    batches = [(images[start : start + 16], labels[start : start + 16]) for start in (0, 16)]
    seen = []

    def loss(logits, targets):
        seen.append((logits.shape, targets.shape))
        return jnp.abs(jnp.tanh(logits) - targets).mean(-1)

    config = replace(TrainConfig(**TINY | {"epochs": 2, "validation_share": None}), out=tmp_path / "run")
    run = fit(config, data=Batches(batches, [(images[32:], labels[32:])], class_names=CLASSES), loss=loss, quiet=True)
    assert 0 <= run.summary["mean_average_precision"] <= 1
    assert {shapes[0][1:] for shapes in seen} == {shapes[1][1:] for shapes in seen} == {(3,)}
    assert run.summary["best_step"] > 0
