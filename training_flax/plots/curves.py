"""Figures of numbers: loss and error against epochs, and confusion matrices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common_flax.files import save_figure
from common_flax.palette import BLUE, ORANGE
from common_flax.terminal import as_label

LONGEST_NAME = 20  # characters of a class beside the matrix
MOST_SQUARES = 1000  # squares on a side of a confusion matrix; the picture has fewer pixels


def draw_curves(path: Path, metrics: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draws loss and error against epochs, from the lines of metrics.jsonl."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(as_label(title))
    losses, errors = figure.subplots(1, 2)
    for split, style in (("train", dict(color=BLUE, lw=1.2)), ("test", dict(color=ORANGE, lw=2, marker="o", ms=4))):
        lines = [line for line in metrics if line["split"] == split]
        for axes, name in ((losses, "loss"), (errors, "accuracy")):
            points = [(line["epoch"], line[name]) for line in lines if line[name] is not None]
            epochs, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(epochs, [100 * (1 - v) for v in values] if axes is errors else values, label=split, **style)
    label_axes(losses, errors, "cross-entropy (nats)", "error (%)")
    losses.legend()
    errors.legend()
    save_figure(figure, path)


def label_axes(losses: Axes, errors: Axes, loss_label: str, error_label: str) -> None:
    """Sets labels, scales and grids of losses and errors against epochs; call it after drawing the curves."""
    positive = any(np.any(np.asarray(line.get_ydata(), float) > 0) for line in losses.get_lines())
    losses.set(xlabel="epoch", ylabel=loss_label, yscale="log" if positive else "linear")  # with one class losses are 0
    errors.set(xlabel="epoch", ylabel=error_label, ylim=(0, None))
    for axes in (losses, errors):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)


def draw_confusion(path: Path, labels: np.ndarray, predictions: np.ndarray, names: Sequence[str], title: str) -> None:
    """Draws the confusion matrix of predictions, with a count in each square if there are at most 20 classes.

    Images without a prediction, -1, are left out. Of more than a thousand classes, neighbours share a square.
    """
    each = -(-len(names) // MOST_SQUARES)  # classes on the side of a square
    classes = -(-len(names) // each)
    counts = np.zeros((classes, classes), int)
    made = predictions >= 0  # logits that are NaN predict no class
    np.add.at(counts, (labels[made] // each, predictions[made] // each), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    of_classes = f", {each} in a square" if each > 1 else ""
    axes.set(xlabel=f"predicted class{of_classes}", ylabel=f"true class{of_classes}", title=as_label(title))
    if classes <= 20:
        names = [as_label(name, LONGEST_NAME) for name in names]
        axes.set_xticks(range(classes), names, rotation=0 if max(map(len, names)) < 4 else 60)
        axes.set_yticks(range(classes), names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, label="share of the true class")
    save_figure(figure, path)
