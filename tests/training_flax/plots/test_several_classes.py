"""Pictures of runs on images that may have several classes: curves, and the targets of a batch."""

import numpy as np
import pytest

from training_flax.plots import curves, grids
from training_flax.plots.curves import draw_curves
from training_flax.plots.grids import draw_batch

SCORES = [0.5, 0.75, 0.875]


def lines(*splits):
    found = [{"split": "train", "epoch": 0.5, "loss": 1.0, "accuracy": 0.25}]
    for split in splits:
        scores = SCORES[:1] if "best" in split else SCORES
        about = enumerate(scores, 1)
        found += [
            {"split": split, "epoch": e, "loss": 1 / e, "accuracy": 0.5, "mean_average_precision": s} for e, s in about
        ]
    return found


@pytest.mark.parametrize("splits", [("test",), ("validation", "test of best weights")])
def test_curves_have_a_line_of_the_score_that_weights_are_chosen_by(splits, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: figures.append(figure))
    draw_curves(tmp_path / "c.png", lines(*splits), "title", "binary cross-entropy (nats)")
    losses, errors = figures[0].axes
    assert losses.get_ylabel() == "binary cross-entropy (nats)"
    drawn = {line.get_label(): line.get_ydata() for line in errors.get_lines()}
    assert list(drawn) == ["train", *(name for split in splits for name in (split, f"{split}, 1 - mean AP"))]
    for split in splits:
        expected = 100 * (1 - np.array(SCORES[:1] if "best" in split else SCORES))
        np.testing.assert_array_equal(drawn[f"{split}, 1 - mean AP"], expected)
    assert [line.get_label() for line in losses.get_lines()] == ["train", *splits]


def test_curves_of_one_class_an_image_have_no_such_line(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: figures.append(figure))
    plain = [{name: value for name, value in line.items() if name != curves.MEAN} for line in lines("test")]
    draw_curves(tmp_path / "c.png", plain, "title")
    assert [line.get_label() for line in figures[0].axes[1].get_lines()] == ["train", "test"]


def test_a_batch_is_drawn_with_all_of_its_classes(tmp_path, monkeypatch):
    texts = []
    monkeypatch.setattr(grids, "as_label", lambda text, *_: texts.append(text) or text)
    targets = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0.25, 1, 0.75, 0]])
    draw_batch(tmp_path / "b.png", np.zeros((4, 4, 4, 3)), targets, ["a", "b", "c", "d"])
    assert texts == ["a + b + c", "no class", "b", "b + 75 % c + 25 % a"]
