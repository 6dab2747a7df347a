"""Pictures of a run, and of what a network takes images for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training_flax.classifier import Predictions

TRAIN, TEST = "#0072b2", "#d55e00"  # Okabe and Ito: told apart by colour-blind readers too
SHOWN_CLASSES = 3  # under an image


def draw_curves(path: Path, metrics: Sequence[Mapping[str, Any]], title: str) -> None:
    """Loss and error against epochs, from the lines of metrics.jsonl."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    losses, errors = figure.subplots(1, 2)
    for split, style in (("train", dict(color=TRAIN, lw=1.2)), ("test", dict(color=TEST, lw=2, marker="o", ms=4))):
        lines = [line for line in metrics if line["split"] == split and line["loss"] is not None]
        epochs = [line["epoch"] for line in lines]
        losses.plot(epochs, [line["loss"] for line in lines], label=split, **style)
        errors.plot(epochs, [100 * (1 - line["accuracy"]) for line in lines], label=split, **style)
    losses.set(xlabel="epoch", ylabel="cross-entropy (nats)", yscale="log")
    errors.set(xlabel="epoch", ylabel="error (%)", ylim=(0, None))
    for axes in (losses, errors):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def draw_batch(path: Path, images: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> None:
    """The images (batch, height, width, channels), 0 to 255, that a step is shown, each with its largest targets."""
    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.85 * rows))
    squares = np.ravel(figure.subplots(rows, columns, squeeze=False))
    # Room for a line over each image. A constrained layout takes seconds to find the same.
    figure.subplots_adjust(0.01, 0.02 / rows, 0.99, 1 - 0.14 / rows, wspace=0.06, hspace=0.2)
    for axes in squares:
        axes.set_axis_off()
    for axes, image, target in zip(squares, images, targets, strict=False):
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        axes.imshow(pixels[..., 0] if pixels.shape[-1] != 3 else pixels, cmap="gray", vmin=0, vmax=255)
        shares = [(target[i], names[i]) for i in np.argsort(-target)[:2] if target[i] > 0.005]
        title = " + ".join(name if share > 0.995 else f"{100 * share:.0f} % {name}" for share, name in shares)
        axes.set_title(title, fontsize=8)
    figure.savefig(path, dpi=120)


def draw_predictions(
    path: Path, images: np.ndarray, titles: Sequence[str], predictions: Predictions, names: Sequence[str]
) -> None:
    """The images (images, height, width, channels) uint8 that a network has seen, each with its likeliest classes."""
    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    shown = min(SHOWN_CLASSES, predictions.classes.shape[1])
    figure = Figure(figsize=(1.9 * columns, (2.15 + 0.16 * shown) * rows), layout="constrained")
    squares = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in squares[len(images) :]:
        axes.set_axis_off()
    for axes, image, title, shares, classes in zip(squares, images, titles, *predictions, strict=False):
        axes.imshow(image[..., 0] if image.shape[-1] != 3 else image, cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(_cut(title[::-1])[::-1], loc="left", fontsize=8, color="0.45", pad=3, parse_math=False)
        lines = [f"{100 * share:.0f} % {_cut(names[index])}" for share, index in zip(shares, classes, strict=True)]
        axes.set_xlabel("\n".join(lines[:shown]), loc="left", fontsize=8, parse_math=False)
    figure.savefig(path, dpi=120)


def _cut(text: str) -> str:
    """As much of a text as fits on a small image."""
    return text if len(text) <= 22 else text[:21] + "…"


def draw_confusion(path: Path, labels: np.ndarray, predictions: np.ndarray, names: Sequence[str], title: str) -> None:
    """How often each class was taken for each; numbers stand in the squares while there are few classes."""
    classes = len(names)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    if classes <= 20:
        axes.set_xticks(range(classes), names, rotation=0 if max(map(len, names)) < 4 else 60)
        axes.set_yticks(range(classes), names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, label="share of the true class")
    figure.savefig(path, dpi=120)
