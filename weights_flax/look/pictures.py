"""Pictures of a trained network: the filters of its stem, and activation maps over images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from common_flax.files import save_figure
from common_flax.terminal import as_label
from weights_flax.look.features import network


def draw_filters(path: Path, model: nn.Module, variables: Mapping[str, Any], title: str | None = None) -> None:
    """Draws the filters of a network's first convolution in a grid, row by row, as figure 3 of Krizhevsky 2012.

    Each filter is divided by its largest absolute weight; mid-grey is zero. Weights of three input channels are shown
    as red, green and blue; with another number of channels each has its own grey picture, side by side with the others.

    Args:
        path: a PNG.
        model: a `ResNet`, `PlainNet`, `VGG` or `DenseNet`.
        variables: its {"params", …}.
        title: above the picture; None gives the number of filters and their size.

    Raises:
        ValueError: the model is of another kind, or the file cannot be written.
    """
    name, kernel = network(model).first_conv, np.asarray(network(model).first_kernel(variables), np.float64)
    height, width, channels, count = kernel.shape
    picture = filter_grid(kernel)
    figure = _figure(6.0, 6.0 * picture.shape[0] / picture.shape[1] + 0.4)
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(as_label(title or f"{name}: {count} filters of {height}×{width}×{channels}"), fontsize=10)
    _save(figure, path)


def draw_activation_maps(path: Path, images: ArrayLike, maps: ArrayLike, titles: Sequence[str]) -> None:
    """Draws images, and below each the same image under its activation map.

    Each map is stretched to the size of its image and divided by its largest value. Negative values, which are evidence
    against the class, are as dark as zero.

    Args:
        path: a PNG.
        images: (batch, height, width, channels), 0 to 255; three channels are shown in colour, else only the first.
        maps: (batch, map height, map width), as `class_activation_map` and `grad_cam` return them.
        titles: one for each image.

    Raises:
        ValueError: the numbers of images, maps and titles differ, or the file cannot be written.
    """
    images, maps = np.asarray(images, np.float64), np.asarray(maps, np.float64)
    if images.ndim != 4 or maps.ndim != 3 or not len(images) == len(maps) == len(titles) > 0:
        raise ValueError(
            "images (batch, height, width, channels), maps (batch, height, width) and titles must be as many; "
            f"given {images.shape}, {maps.shape} and {len(titles)} titles"
        )
    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    figure = _figure(1.6 * columns, 3.4 * rows)
    squares = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in squares.flat:
        axes.set_axis_off()
    for place, (image, values, title) in enumerate(zip(images, maps, titles, strict=True)):
        row, column = divmod(place, columns)
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        pixels = np.repeat(pixels[..., :1], 3, -1) if pixels.shape[-1] != 3 else pixels
        height, width = pixels.shape[:2]
        above, below = squares[2 * row, column], squares[2 * row + 1, column]
        above.set_title(as_label(title, 40), fontsize=8)
        above.imshow(pixels)
        below.imshow(pixels)
        shares = np.clip(values / max(values.max(), np.finfo(float).tiny), 0, 1)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        below.imshow(shares, cmap="inferno", vmin=0, vmax=1, alpha=0.6, interpolation="bilinear", extent=extent)
    _save(figure, path)


def filter_grid(kernel: np.ndarray) -> np.ndarray:
    """Arranges filters (height, width, channels, count) in one picture, with white lines between the filters.

    Returns:
        (grid height, grid width, 3), values from 0 to 1.
    """
    height, width, channels, count = kernel.shape
    largest = np.abs(kernel).max((0, 1, 2))
    scaled = 0.5 + 0.5 * kernel / np.where(largest > 0, largest, 1)
    if channels != 3:  # (height, width, channels, count) to grey pictures (height, width, 3, count · channels)
        scaled = np.swapaxes(scaled, 2, 3).reshape(height, width, 1, count * channels).repeat(3, 2)
    tiles = scaled.shape[3]
    columns = int(np.ceil(np.sqrt(count))) * (1 if channels == 3 else channels)
    rows = -(-tiles // columns)
    picture = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3))
    for place in range(tiles):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        picture[top : top + height, left : left + width] = scaled[..., place]
    return picture


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # slow to import, and only pictures need matplotlib

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    """Writes a PNG; after an error no part of the file stays behind."""
    try:
        save_figure(figure, path, "png")
    except OSError as error:
        raise ValueError(f"picture {str(path)!r} cannot be written: {error.strerror or error}") from None
