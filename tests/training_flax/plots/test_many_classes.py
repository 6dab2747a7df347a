"""Confusion matrices of many classes: the picture and its memory do not grow with the square of their number."""

import numpy as np
import pytest

from training_flax.plots import curves
from training_flax.plots.curves import MOST_SQUARES, draw_confusion


@pytest.mark.parametrize(
    ("classes", "squares"),
    [(1, 1), (2, 2), (1000, 1000), (1001, 501), (2000, 1000), (2001, 667), (1_000_000, 1000)],
)
def test_neighbours_share_a_square_of_a_large_matrix(classes, squares, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: figures.append(figure))
    labels = np.arange(classes, dtype=np.int32)
    predictions = labels.copy()
    predictions[0] = classes - 1  # the one mistake
    draw_confusion(tmp_path / "confusion.png", labels, predictions, [str(label) for label in labels], "title")
    shares = figures[0].axes[0].images[0].get_array()
    assert shares.shape == (squares, squares)
    assert squares <= MOST_SQUARES
    each = -(-classes // squares)
    assert shares[0, -1] == 1 / each
    np.testing.assert_array_equal(np.diagonal(shares)[1:-1], 1)
    assert ("in a square" in figures[0].axes[0].get_xlabel()) == (each > 1)
