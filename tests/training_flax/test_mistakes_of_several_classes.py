"""The mistakes of images that may have several classes: summary, predictions.csv, mistakes.png and the last lines."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from training_flax import Dataset, Split
from training_flax.learn.evaluation import Evaluation
from training_flax.learn.multi_label import average_precision
from training_flax.mistakes import (
    draw_worst,
    lines_about,
    mistakes_size,
    most_confident_labels,
    scores_in_summary,
    write_predictions,
)
from training_flax.plots import grids
from training_flax.results import score_line

LABELS = [[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0]]
SHARES = [[0.9, 0.75, 0.25], [0.0, 0.25, 0.5], [0.75, 0.9, 0.0], [0.0, 0.0625, 0.125]]


def made(labels, shares, names=("red", "green", "blue"), paths=()):
    """A data set of grey images, each with its index for a value, and an evaluation with these probabilities."""
    labels, shares = np.array(labels, np.uint8), np.array(shares, np.float32)
    images = np.zeros((len(labels), 4, 4, 1), np.uint8) + np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    split = Split(images, labels)
    dataset = Dataset("made", split, split, tuple(names), (0.5,), (0.5,), test_paths=paths)
    predictions = np.where(np.isnan(shares).any(1, keepdims=True), -1, shares > 0.5).astype(np.int8)
    right = float((predictions == labels).all(1).mean())
    precision = average_precision(labels, shares)
    return dataset, Evaluation(1.0, right, predictions, shares, np.zeros(0, np.int32), precision)


def rows_of(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_the_summary_has_each_class_and_the_mean():
    dataset, evaluation = made(LABELS, SHARES)
    entries = scores_in_summary(evaluation, dataset)
    assert list(entries) == ["mean_average_precision", "per_class"]
    assert entries["mean_average_precision"] == evaluation.average_precision.mean()
    green = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2, "average_precision": (1 + 2 / 4) / 2}
    assert entries["per_class"]["green"] == green
    assert entries["per_class"]["blue"]["average_precision"] == pytest.approx(1 / 2)


def test_a_class_that_no_test_image_has_counts_for_nothing():
    labels = [[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0]]
    entries = scores_in_summary(*made(labels, SHARES)[::-1])
    assert entries["per_class"]["blue"]["average_precision"] is None
    means = [entries["per_class"][name]["average_precision"] for name in ("red", "green")]
    assert entries["mean_average_precision"] == pytest.approx(np.mean(means))
    json.dumps(entries, allow_nan=False)


def test_the_last_lines_name_the_worst_class_and_the_commonest_wrong_label():
    assert lines_about(*made(LABELS, SHARES)[::-1]) == [
        "worst class 'blue': average precision 50.00 %, 0 of 1 test image found, F1 0.00 %",
        "commonest wrong label: 'green' missed in 1 of 2 test images",
    ]
    seen = [[0.9, 0.75, 0.9], [0.0, 0.75, 0.5], [0.9, 0.9, 0.0], [0.0, 0.9, 0.0]]
    dataset, evaluation = made(LABELS, seen)
    assert lines_about(evaluation, dataset)[-1] == (
        "commonest wrong label: 'green' seen in 2 of 2 test images without it"
    )
    assert lines_about(*made(LABELS, LABELS)[::-1]) == []
    line = score_line("last weights", dataset, evaluation)
    assert line.endswith("50.00 % (2 right in all classes), loss 1.0000, mean average precision 100.00 %")


def test_predictions_have_a_column_for_each_class(tmp_path):
    dataset, evaluation = made(LABELS, SHARES, paths=[f"{index}.png" for index in range(4)])
    write_predictions(tmp_path / "p.csv", evaluation, dataset)
    rows = rows_of(tmp_path / "p.csv")
    first = {"image": "0.png", "truth": "red|blue", "guess": "red|green"}
    assert rows[0] == first | {
        f"probability of {n}": str(s) for n, s in zip(("red", "green", "blue"), ("0.9", "0.75", "0.25"), strict=True)
    }
    assert [(row["truth"], row["guess"]) for row in rows[1:]] == [("", ""), ("red|green", "red|green"), ("green", "")]


def test_an_image_that_is_not_finite_has_no_guess(tmp_path):
    dataset, evaluation = made(LABELS, [[np.nan, 0.75, 0.25], *SHARES[1:]])
    write_predictions(tmp_path / "p.csv", evaluation, dataset)
    row = rows_of(tmp_path / "p.csv")[0]
    assert [*row.values()] == ["0", "red|blue", "", "", "", ""]


def test_over_a_thousand_classes_have_no_columns(tmp_path):
    labels = np.eye(3, 1001, dtype=np.uint8)
    dataset, evaluation = made(labels, 0.75 * labels, [str(number) for number in range(1001)])
    write_predictions(tmp_path / "p.csv", evaluation, dataset)
    assert rows_of(tmp_path / "p.csv")[2] == {"image": "2", "truth": "2", "guess": "2"}


def test_the_most_confident_wrong_labels_come_first():
    dataset, evaluation = made(LABELS, [*SHARES[:3], [np.nan, 0.0, 0.0]])
    wrong, images, classes, confidence = most_confident_labels(evaluation, dataset.test.labels)
    assert wrong == 3
    assert [*zip(images, classes, strict=True)] == [(0, 1), (0, 2), (3, 0)]
    np.testing.assert_array_equal(confidence, [0.75, 0.75, -1])  # 0.25 for a class that is there
    assert len(most_confident_labels(evaluation, dataset.test.labels, most=2)[1]) == 2


@pytest.mark.parametrize("case", ["some", "none"])
def test_the_picture_says_what_was_seen_and_what_is_there(case, tmp_path, monkeypatch):
    texts = []
    monkeypatch.setattr(grids, "as_label", lambda text, *_: texts.append(text) or text)
    shares = LABELS if case == "none" else [*SHARES[:3], [np.nan, 0.0, 0.0]]
    dataset, evaluation = made(LABELS, shares)
    draw_worst(tmp_path / "p.png", evaluation, dataset, None, "net on data")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    if case == "none":
        assert texts == ["no wrong label in 4 test images: net on data", ""]
    else:
        assert texts == [
            "3 wrong labels in 4 test images: net on data",
            "the most confident first",
            *("guess 75.0 %: green", "truth: red + blue", "guess 75.0 %: no blue", "truth: red + blue"),
            *("no guess: not finite", "truth: green"),
        ]


@pytest.mark.parametrize("name", ["a,b", 'the "cat"', "größe", "猫", "x" * 300])
def test_the_estimate_of_bytes_is_an_upper_one(name, tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{name}{number}" for number in range(20)]
    dataset, evaluation = made(rng.integers(0, 2, (100, 20)), rng.random((100, 20)) ** 9, names, names * 5)
    write_predictions(tmp_path / "p.csv", evaluation, dataset)
    text = json.dumps(scores_in_summary(evaluation, dataset), indent=2)
    draw_worst(tmp_path / "p.png", evaluation, dataset, None, name)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) + len(text) <= mistakes_size(dataset)
