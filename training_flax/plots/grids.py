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
    from matplotlib.figure import Figure  # slow to import, and only pictures need matplotlib

    rows, columns = _grid(len(images))
    figure = Figure(figsize=(1.6 * columns, 1.85 * rows))
    squares = np.ravel(figure.subplots(rows, columns, squeeze=False))
    # Leaves space for a line over each image. A constrained layout takes seconds to compute the same.
    figure.subplots_adjust(0.01, 0.02 / rows, 0.99, 1 - 0.14 / rows, wspace=0.06, hspace=0.2)
    for axes in squares:
        axes.set_axis_off()
    for axes, image, target in zip(squares, images, targets, strict=False):
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        axes.imshow(pixels[..., 0] if pixels.shape[-1] != 3 else pixels, cmap="gray", vmin=0, vmax=255)
        shares = [(target[i], names[i]) for i in np.argsort(-target, kind="stable") if target[i] > 0.005]
        parts = [name if share > 0.995 else f"{100 * share:.0f} % {name}" for share, name in shares]
        title = as_label(" + ".join(parts) if parts else "no class", 40)
        axes.set_title(title, fontsize=8 * WIDTH / max(WIDTH, len(title)))
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
    from matplotlib.figure import Figure  # slow to import, and only pictures need matplotlib

    rows, columns = _grid(max(len(images), 1))
    inches = max(1.9 * columns, 6.6), 2.45 * rows + 0.65 if len(images) else 1.2
    figure = Figure(figsize=inches)
    # Inches of the two lines over all images, and of the two under each; a constrained layout would give each row
    # another height.
    figure.subplots_adjust(0.01, 0.5 / inches[1], 0.99, 1 - 0.6 / inches[1], wspace=0.06, hspace=0.34)
    figure.text(0.5, 1 - 0.12 / inches[1], as_label(title), ha="center", va="top", fontsize=10)
    figure.text(0.5, 1 - 0.36 / inches[1], as_label(note), ha="center", va="top", fontsize=8, color="0.45")
    if len(images):
        squares = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for axes in squares:
            axes.set_axis_off()
        for axes, image, truth, guess, share in zip(squares, images, truths, guesses, probabilities, strict=False):
            axes.imshow(image[..., 0] if image.shape[-1] != 3 else image, cmap="gray", vmin=0, vmax=255)
            guessed = "no guess: not finite" if guess is None else f"guess {100 * share:.1f} %: {guess}"
            for height, text, colour in ((-0.03, guessed, ORANGE), (-0.14, f"truth: {truth}", BLUE)):
                about: Any = dict(transform=axes.transAxes, ha="center", va="top", fontsize=7.5)
                axes.text(0.5, height, as_label(text, 30), color=colour, **about)
    save_figure(figure, path)


def _grid(images: int) -> tuple[int, int]:
    """Returns rows and columns for this number of images."""
    columns = min(6, images)
    return -(-images // columns), columns


def _cut(text: str) -> str:
    """Cuts a text to the width of a small image."""
    return text if len(text) <= 22 else text[:21] + "…"
