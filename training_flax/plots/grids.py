"""Grids of images: the batch of a training step, and images with their predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common_flax.files import save_figure
from common_flax.terminal import as_label

SHOWN_CLASSES = 3  # per image


def draw_batch(path: Path, images: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> None:
    """Draws a step's images (batch, height, width, channels), 0 to 255, each with its largest targets."""
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
        shares = [(target[i], names[i]) for i in np.argsort(-target)[:2] if target[i] > 0.005]
        title = " + ".join(name if share > 0.995 else f"{100 * share:.0f} % {name}" for share, name in shares)
        axes.set_title(as_label(title, 40), fontsize=8)
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


def _grid(images: int) -> tuple[int, int]:
    """Returns rows and columns for this number of images."""
    columns = min(6, images)
    return -(-images // columns), columns


def _cut(text: str) -> str:
    """Cuts a text to the width of a small image."""
    return text if len(text) <= 22 else text[:21] + "…"
