"""The mistakes of a finished run: summary.json, predictions.csv, mistakes.png and the last lines on the terminal."""

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

from training_flax import Dataset, Split, TrainConfig, evaluate, fit, open_dataset, restore, train_command
from training_flax.learn.evaluation import Evaluation
from training_flax.mistakes import (
    draw_worst,
    lines_about,
    mistakes_size,
    most_confident,
    scores_in_summary,
    write_predictions,
)
from training_flax.plots import grids

TINY = dict(width=2, batch_size=16, recipe="he2015-cifar", augment=("none",), steps=2)
DATA = "fake:8x8x3:7:64"  # 256 test images of noise
WORDS = ["--arch", "resnet20", "--width", "2", "--batch-size", "16", "--recipe", "he2015-cifar", "--augment", "none"]
WORDS += ["--steps", "2"]


def rows_of(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def made(labels, predictions, probabilities, names=("cat", "dog", "owl"), ranks=None, paths=()):
    """A data set of grey images, each with its index for a value, and an evaluation with these predictions."""
    labels, predictions = np.array(labels, np.int32), np.array(predictions, np.int32)
    ranks = np.where(labels == predictions, 0, 1) if ranks is None else np.array(ranks)
    images = np.zeros((len(labels), 4, 4, 1), np.uint8) + np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    split = Split(images, labels)
    dataset = Dataset("made", split, split, tuple(names), (0.5,), (0.5,), test_paths=paths)
    accuracy = float((labels == predictions).mean())
    return dataset, Evaluation(1.0, accuracy, predictions, np.array(probabilities, np.float32), ranks)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return fit(TrainConfig("resnet20", data=DATA, **TINY, out=tmp_path_factory.mktemp("runs") / "run"), quiet=True).run


@pytest.fixture(scope="module")
def logits(finished):
    """The logits of the finished run for its test images, computed without the evaluation step."""
    from training_flax import normalise

    (model, variables), dataset = restore(finished), open_dataset(DATA)
    return model.apply(variables, normalise(dataset.test.images, dataset.mean, dataset.std), train=False)


@pytest.mark.slow
def test_the_summary_has_the_scores_of_scikit_learn(finished, logits):
    summary, labels = json.loads((finished / "summary.json").read_text()), open_dataset(DATA).test.labels
    expected = precision_recall_fscore_support(labels, logits.argmax(-1), labels=range(7), zero_division=0)
    assert list(summary["per_class"]) == list("0123456")
    for number, scores in summary["per_class"].items():
        found = [scores[name] for name in ("precision", "recall", "f1", "support")]
        assert found == pytest.approx([values[int(number)] for values in expected], rel=1e-12)
    assert summary["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5), rel=1e-12)
    assert summary["test_accuracy"] <= summary["top5_accuracy"] <= 1


def test_predictions_are_of_every_test_image(finished, logits):
    rows, labels = rows_of(finished / "predictions.csv"), open_dataset(DATA).test.labels
    assert [int(row["image"]) for row in rows] == list(range(256))
    assert [int(row["truth"]) for row in rows] == labels.tolist()
    assert [int(row["guess"]) for row in rows] == logits.argmax(-1).tolist()
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose([float(row["probability"]) for row in rows], shares.max(-1) / shares.sum(-1), rtol=1e-5)
    ranks = 1 + (np.asarray(logits) > np.take_along_axis(np.asarray(logits), labels[:, None], -1)).sum(-1)
    assert [int(row["rank"]) for row in rows] == ranks.tolist()


def test_an_evaluation_in_a_later_session_has_the_same(finished):
    found, rows = evaluate(*restore(finished), open_dataset(DATA), batch_size=50), rows_of(finished / "predictions.csv")
    assert [int(row["guess"]) for row in rows] == found.predictions.tolist()
    assert [int(row["rank"]) - 1 for row in rows] == found.ranks.tolist()
    np.testing.assert_allclose([float(row["probability"]) for row in rows], found.probabilities, rtol=1e-4)


NAMES = ["a,b", 'the "cat"', "two\nlines", "größe", "猫", "=1+1", " padded ", "$x$"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_again(name, tmp_path):
    dataset, evaluation = made([0, 1], [1, 1], [0.25, 0.75], (name, "dog"), paths=(f"{name}/x.png", "y.png"))
    write_predictions(tmp_path / "p.csv", evaluation, dataset)
    first, second = rows_of(tmp_path / "p.csv")
    assert first == {"image": f"{name}/x.png", "truth": name, "guess": "dog", "probability": "0.25", "rank": "2"}
    assert second == {"image": "y.png", "truth": "dog", "guess": "dog", "probability": "0.75", "rank": "1"}
    assert (tmp_path / "p.csv").read_bytes().count(b"\r\n") == 3  # lines end as in RFC 4180


def test_names_that_are_no_text_are_written_as_escapes(tmp_path):
    dataset, evaluation = made([0], [0], [1.0], ["cat", "dog"], paths=[os.fsdecode(b"caf\xe9.png")])
    write_predictions(tmp_path / "p.csv", evaluation, dataset)
    assert rows_of(tmp_path / "p.csv")[0]["image"] == "caf\\xe9.png"


def test_an_image_without_a_prediction_has_empty_fields(tmp_path):
    dataset, evaluation = made([0, 1], [-1, 1], [np.nan, 0.5], ranks=[3, 0])
    write_predictions(tmp_path / "p.csv", evaluation, dataset)
    assert rows_of(tmp_path / "p.csv")[0] == dict(image="0", truth="cat", guess="", probability="", rank="3")


@pytest.mark.parametrize("name", [*NAMES, "x" * 300])
def test_the_estimate_of_bytes_is_an_upper_one(name, tmp_path):
    names = [f"{name}{number}" for number in range(40)]
    labels = np.arange(200) % 40
    dataset, evaluation = made(labels, labels[::-1], np.linspace(0, 1, 200) / 3, names, paths=names * 5)
    write_predictions(tmp_path / "p.csv", evaluation, dataset)
    text = json.dumps(scores_in_summary(evaluation, dataset), indent=2)
    draw_worst(tmp_path / "p.png", evaluation, dataset, None, name)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) + len(text) <= mistakes_size(dataset)


@pytest.mark.parametrize(("classes", "told"), [(2, False), (5, False), (6, True)])
def test_top_five_is_of_more_than_five_classes(classes, told):
    dataset, evaluation = made([0, 1], [1, 1], [0.5, 0.5], [str(number) for number in range(classes)], ranks=[5, 4])
    assert scores_in_summary(evaluation, dataset).get("top5_accuracy") == (0.5 if told else None)
    assert any(line.startswith("top-5 accuracy 50.00 %") for line in lines_about(evaluation, dataset)) == told


def test_classes_of_one_name_are_told_apart():
    dataset, evaluation = made([0, 1, 1], [0, 1, 0], [0.5] * 3, ["cat", "cat"])
    scores = scores_in_summary(evaluation, dataset)["per_class"]
    assert {name: values["support"] for name, values in scores.items()} == {"cat": 1, "cat (class 1)": 2}


def test_a_summary_stays_readable_with_a_million_classes():
    dataset, evaluation = made([0, 1], [0, 0], [0.5, 0.5], [str(number) for number in range(10**6)])
    assert scores_in_summary(evaluation, dataset) == {"top5_accuracy": 1.0}


@pytest.mark.parametrize(
    ("labels", "predictions", "lines"),
    [
        ([0, 1, 2], [0, 1, 2], []),
        (
            [0, 0, 0, 1, 1, 2],
            [0, 1, 1, 1, 0, 2],
            [
                "worst class 'cat': 1 of 3 test images right, F1 40.00 %",
                "commonest confusion: 'cat' taken for 'dog', 2 of 3 test images",
            ],
        ),
        (
            [0, 2],
            [0, 0],
            [
                "worst class 'owl': 0 of 1 test image right, F1 0.00 %",
                "commonest confusion: 'owl' taken for 'cat', 1 of 1 test image",
            ],
        ),
        ([0, 1], [-1, 1], ["worst class 'cat': 0 of 1 test image right, F1 0.00 %"]),
    ],
)
def test_lines_name_the_worst_class_and_the_commonest_confusion(labels, predictions, lines):
    dataset, evaluation = made(labels, predictions, [0.5] * len(labels))
    assert lines_about(evaluation, dataset) == lines


def test_the_most_confident_mistakes_come_first():
    labels, predictions = np.zeros(8, int), np.array([0, 1, 1, -1, 1, 0, 1, 1])
    _, evaluation = made(labels, predictions, [0.99, 0.5, 0.9, np.nan, 0.9, 0.98, 0.6, 0.3])
    assert most_confident(evaluation, labels).tolist() == [2, 4, 6, 1, 7, 3]
    assert most_confident(evaluation, labels, 2).tolist() == [2, 4]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, in place of files."""
    figures = []
    monkeypatch.setattr(grids, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_mistakes_are_drawn_with_truth_guess_and_probability(drawn, tmp_path):
    dataset, evaluation = made([0, 1, 2, 0], [0, 2, 0, -1], [0.9, 0.625, 0.75, np.nan])
    draw_worst(tmp_path / "x.png", evaluation, dataset, None, "net on made")
    (figure,) = drawn
    assert [image.get_array()[0, 0] for image in figure.axes[0].images] == [2, 1, 3]  # the image's index is its value
    assert texts(figure) == [
        *("3 mistakes in 4 test images: net on made", "the most confident first"),
        *("guess 75.0 %: cat", "truth: owl", "guess 62.5 %: owl", "truth: dog", "no guess: not finite", "truth: cat"),
    ]


@pytest.mark.parametrize(
    ("wrong", "title", "note", "images"),
    [
        (0, "no mistake in 100 test images: net", "", 0),
        (1, "1 mistake in 100 test images: net", "the most confident first", 1),
        (24, "24 mistakes in 100 test images: net", "the most confident first", 24),
        (25, "25 mistakes in 100 test images: net", "the 24 most confident", 24),
    ],
)
def test_the_title_counts_mistakes(wrong, title, note, images, drawn, tmp_path):
    labels = np.zeros(100, int)
    dataset, evaluation = made(labels, np.arange(100) < wrong, np.full(100, 0.5))
    draw_worst(tmp_path / "x.png", evaluation, dataset, None, "net")
    assert texts(drawn[0])[:2] == [title, note]
    assert len(drawn[0].axes[0].images) == images


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images of many sizes, which are streamed; each class has a colour of its own."""
    root = tmp_path_factory.mktemp("photos")
    for part, count in (("train", 8), ("test", 5)):
        for number, (name, colour) in enumerate({"red, dark": (90, 0, 0), "größe": (0, 90, 0)}.items()):
            for index in range(count):
                path = root / part / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20 + index, 24 + number), colour).save(path)
    return root


@pytest.mark.slow
def test_streamed_photos_are_named_and_drawn_as_the_network_saw_them(photos, tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(
        "training_flax.mistakes.draw_mistakes", lambda path, images, *rest: shown.append((images, rest))
    )
    words = [*WORDS[:4], "--batch-size", "4", *WORDS[6:], "--image-size", "16", "--out", str(tmp_path / "run")]
    assert train_command.main([*words, "--data", f"folder:{photos}"]) == 0
    rows = rows_of(tmp_path / "run" / "predictions.csv")
    assert [row["image"] for row in rows] == [
        str(photos / "test" / name / f"{index}.png") for name in ("größe", "red, dark") for index in range(5)
    ]
    assert all(Path(row["image"]).parent.name == row["truth"] for row in rows)
    (images, (truths, guesses, *_)), wrong = shown[0], [row for row in rows if row["truth"] != row["guess"]]
    assert sorted(truths) == sorted(row["truth"] for row in wrong)
    assert images.shape == (len(wrong), 16, 16, 3)
    channel = {"red, dark": 0, "größe": 1}
    assert [int(image[8, 8].argmax()) for image in images] == [channel[truth] for truth in truths]
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0].startswith("worst class ")
    confusions = Counter(zip(truths, guesses, strict=True))
    assert any(
        last[1].startswith(f"commonest confusion: {truth!r} taken for {guess!r}, {count} ")
        for (truth, guess), count in confusions.items()
        if count == max(confusions.values())
    )


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of the finished run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, "run"))


def again(capsys):
    """Calls the run's command once more; returns its output."""
    capsys.readouterr()
    assert train_command.main([*WORDS, "--data", DATA, "--out", "run"]) == 0
    return capsys.readouterr().out


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "harm"),
    [("mistakes.png", harm) for harm in (halve, Path.unlink, pipe)]
    + [("predictions.csv", harm) for harm in (halve, flip, Path.unlink, pipe)],
)
def test_lists_of_mistakes_that_are_broken_are_written_anew(name, harm, run, capsys):
    before = {path: (run / path).read_bytes() for path in ("predictions.csv", "mistakes.png", "model.safetensors")}
    harm(run / name)
    assert f"run is finished, but these are missing or damaged, and written anew: {name}\n" in again(capsys)
    assert {path: (run / path).read_bytes() for path in before} == before
    assert "run is finished: 2 steps" in again(capsys)


def test_a_finished_run_of_an_older_version_stays_finished(run, capsys):
    path, new = run / "summary.json", ("per_class", "top5_accuracy", "predictions_check_sum", "check_sum")
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in values.items() if name not in new}))
    (run / "mistakes.png").unlink()
    (run / "predictions.csv").unlink()
    assert "run is finished: 2 steps" in again(capsys)
    assert not (run / "predictions.csv").exists()


@pytest.mark.slow
def test_the_last_lines_of_a_run_are_about_its_mistakes(run, capsys):
    (run / "mistakes.png").unlink()
    *_, place, top, worst, confusion = again(capsys).splitlines()
    assert place.endswith("; mistakes in mistakes.png, predictions in predictions.csv")
    assert top.startswith("top-5 accuracy ")
    assert worst.startswith("worst class '")
    assert confusion.startswith("commonest confusion: '")
