"""Figures of numbers: loss and error against epochs, and confusion matrices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common_flax.files import save_figure
from common_flax.palette import BLUE, GREEN, ORANGE
from common_flax.terminal import as_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST_NAME = 20  # characters of a class beside the matrix
MEAN = "mean_average_precision"
MOST_SQUARES = 1000  # squares on a side of a confusion matrix; the picture has fewer pixels


def draw_curves(
    path: Path, metrics: Sequence[Mapping[str, Any]], title: str, loss: str = "cross-entropy (nats)"
) -> None:
    """Draws loss, labelled as `loss`, and error against epochs, from the lines of metrics.jsonl.

    Where images may have several classes, a dashed line is 1 - mean average precision, by which weights are chosen.
    """
    from matplotlib.figure import Figure  # slow to import, and only pictures need matplotlib

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(as_label(title))
    losses, errors = figure.subplots(1, 2)
    watched = dict(color=ORANGE, lw=2, marker="o", ms=4)
    styles: dict[str, dict[str, Any]] = {"train": dict(color=BLUE, lw=1.2)}
    if any(line["split"] == "validation" for line in metrics):
        styles |= {"validation": watched, "test of best weights": dict(color=GREEN, ls="", marker="D", ms=7)}
    else:
        styles["test"] = watched
    for split, style in styles.items():
        lines = [line for line in metrics if line["split"] == split]
        for axes, name in ((losses, "loss"), (errors, "accuracy")):
            points = [(line["epoch"], line[name]) for line in lines if line[name] is not None]
            epochs, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(epochs, [100 * (1 - v) for v in values] if axes is errors else values, label=split, **style)
            if axes is errors and (
                points := [(line["epoch"], line[MEAN]) for line in lines if line.get(MEAN) is not None]
            ):
                epochs, values = zip(*points, strict=True)
                dashed = style | ({"ls": "--", "lw": 1.2, "marker": ""} if len(points) > 1 else {"mfc": "w"})
                axes.plot(epochs, [100 * (1 - v) for v in values], label=f"{split}, 1 - mean AP", **dashed)
    label_axes(losses, errors, loss, "error (%)")
    losses.legend(loc="upper right")  # where falling curves are not; to look for the best place takes seconds
    errors.legend(loc="upper right", fontsize="small" if any(MEAN in line for line in metrics) else None)
    save_figure(figure, path)


def label_axes(losses: "Axes", errors: "Axes", loss_label: str, error_label: str) -> None:
    """Sets labels, scales and grids of losses and errors against epochs; call it after drawing the curves."""
    from matplotlib.ticker import MaxNLocator  # slow to import, see `draw_curves`

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
    from matplotlib.figure import Figure  # slow to import, and only pictures need matplotlib
    from matplotlib.ticker import MaxNLocator

    each = -(-len(names) // MOST_SQUARES)  # classes on the side of a square
    classes = -(-len(names) // each)
    counts = np.zeros((classes, classes), int)
    made = predictions >= 0  # logits that are NaN predict no class
    np.add.at(counts, (labels[made] // each, predictions[made] // each), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = classes <= 20
    # Inches: counts need room in their squares, and a square of many classes a pixel of its own.
    side = max(3.6, 0.34 * classes) if named else 4.2 if classes <= 200 else 8.4
    names = [as_label(name, LONGEST_NAME) for name in names] if named else []
    width, height = (side + 0.075 * max(map(len, ["", *names])) + more for more in (2.4, 1.3))
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(as_label(title, int(width / 0.085)), fontsize=10)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    of_classes = f", {each} in a square" if each > 1 else ""
    axes.set(xlabel=f"predicted class{of_classes}", ylabel=f"true class{of_classes}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    if named:
        slanted: dict[str, Any] = dict(rotation=60, ha="right", rotation_mode="anchor")
        axes.set_xticks(range(classes), names, **({} if max(map(len, names)) < 4 else slanted))
        axes.set_yticks(range(classes), names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                size = 9 if classes <= 8 or counts.max() < 1000 else 7
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=size)
    figure.colorbar(image, label="share of the true class", fraction=0.046, pad=0.03)
    save_figure(figure, path)
