"""Grids of images: the batch of a training step, images with their predictions, and mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common_flax.files import save_figure
from common_flax.palette import BLUE, ORANGE
from common_flax.terminal import as_label

SHOWN_CLASSES = 3  # per image
WIDTH = 23  # characters of the usual size above an image


def draw_batch(path: Path, images: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> None:
    """Draws a step's images (batch, height, width, channels), 0 to 255, each with its largest targets."""
    rows, columns = _grid(len(images))
    below = _height(images, 1.5) + 0.35
    figure, axes = _sheet(1.6 * columns + 0.1, below * rows + 0.1)
    for place, (image, target) in enumerate(zip(images, targets, strict=True)):
        left, top = 0.1 + 1.6 * (place % columns), 0.3 + below * (place // columns)
        _show(axes, np.clip(np.rint(image), 0, 255).astype(np.uint8), left, top, 1.5)
        shares = [(target[i], names[i]) for i in np.argsort(-target, kind="stable") if target[i] > 0.005]
        parts = [name if share > 0.995 else f"{100 * share:.0f} % {name}" for share, name in shares]
        title = as_label(" + ".join(parts) if parts else "no class", 40)
        size = 8 * WIDTH / max(WIDTH, len(title))
        axes.text(left + 0.75, top - 0.05, title, ha="center", va="bottom", fontsize=size)
    save_figure(figure, path)


def draw_predictions(
    path: Path,
    images: np.ndarray,
    titles: Sequence[str],
    probabilities: np.ndarray,
    classes: np.ndarray,
    names: Sequence[str],
    *,
    format: str,
) -> None:
    """Draws images as a network saw them, each with its most probable classes.

    Args:
        path: the file to write.
        images: (images, height, width, channels) uint8.
        titles: a title for each image.
        probabilities, classes: (images, top), the most probable class first.
        names: the names of the classes.
        format: the file's format as Matplotlib names it, such as "png".
    """
    from matplotlib.figure import Figure  # slow to import, and only pictures need matplotlib

    rows, columns = _grid(len(images))
    shown = min(SHOWN_CLASSES, classes.shape[1])
    figure = Figure(figsize=(1.9 * columns, (2.15 + 0.16 * shown) * rows), layout="constrained")
    squares = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in squares[len(images) :]:
        axes.set_axis_off()
    for axes, image, title, *likeliest in zip(squares, images, titles, probabilities, classes, strict=False):
        axes.imshow(image[..., 0] if image.shape[-1] != 3 else image, cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(as_label(_cut(title[::-1])[::-1]), loc="left", fontsize=8, color="0.45", pad=3)
        lines = [as_label(f"{100 * share:.0f} % {_cut(names[index])}") for share, index in zip(*likeliest, strict=True)]
        axes.set_xlabel("\n".join(lines[:shown]), loc="left", fontsize=8)
    save_figure(figure, path, format)


def draw_mistakes(
    path: Path,
    images: np.ndarray,
    truths: Sequence[str],
    guesses: Sequence[str | None],
    probabilities: Sequence[float],
    title: str,
    note: str,
) -> None:
    """Draws images that a network took for others: under each the guess with its probability, and the truth.

    Args:
        path: the file to write.
        images: (images, height, width, channels) uint8, as the network saw them; there may be none.
        truths: the name of the true class of each image.
        guesses: the name of its predicted class; None where the network's numbers are not finite.
        probabilities: of the guesses.
        title: the first line over all images.
        note: the second line.
    """
    rows, columns = _grid(max(len(images), 1))
    width, tall = max(1.9 * columns, 6.6), _height(images, 1.8)
    figure, axes = _sheet(width, 0.6 + (tall + 0.5) * rows if len(images) else 1.2)
    axes.text(width / 2, 0.12, as_label(title), ha="center", va="top", fontsize=10)
    axes.text(width / 2, 0.36, as_label(note), ha="center", va="top", fontsize=8, color="0.45")
    for place, (image, truth, guess, share) in enumerate(zip(images, truths, guesses, probabilities, strict=True)):
        left = (width - 1.9 * columns) / 2 + 1.9 * (place % columns)
        top = 0.62 + (tall + 0.5) * (place // columns)
        _show(axes, image, left + 0.05, top, 1.8)
        guessed = "no guess: not finite" if guess is None else f"guess {100 * share:.1f} %: {guess}"
        for below, text, colour in ((0.05, guessed, ORANGE), (0.23, f"truth: {truth}", BLUE)):
            about: Any = dict(ha="center", va="top", fontsize=7.5)
            axes.text(left + 0.95, top + tall + below, as_label(text, 30), color=colour, **about)
    save_figure(figure, path)


def _sheet(width: float, height: float) -> tuple[Any, Any]:
    """Returns a figure, and axes whose coordinates are inches from its upper left corner.

    Axes for each image would take three times as long: Matplotlib makes ticks, spines and labels for each.
    """
    from matplotlib.figure import Figure  # slow to import, and only pictures need matplotlib

    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure, axes


def _height(images: np.ndarray, side: float) -> float:
    """The height of images (images, height, width, channels) that are put into squares; see `_show`."""
    return side * images.shape[1] / max(images.shape[1:3])


def _show(axes: Any, image: np.ndarray, left: float, top: float, side: float) -> None:
    """Puts an image (height, width, channels) uint8 at the top of a square, in its middle; all in inches."""
    height, width = (side * pixels / max(image.shape[:2]) for pixels in image.shape[:2])
    pixels = image[..., 0] if image.shape[-1] != 3 else image
    left += (side - width) / 2
    extent = (left, left + width, top + height, top)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")


def _grid(images: int) -> tuple[int, int]:
    """Returns rows and columns for this number of images."""
    columns = min(6, images)
    return -(-images // columns), columns


def _cut(text: str) -> str:
    """Cuts a text to the width of a small image."""
    return text if len(text) <= 22 else text[:21] + "…"
