"""A measure of how much an image resembles the images that a network was trained on."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from common_flax.json_input import typed
from training_flax.data.dataset import Split, StreamedSplit
from training_flax.data.decode import with_channels
from training_flax.inference.transform import View

SAMPLED = 256  # training images that are looked at
CELLS = 8  # rows and columns of the thumbnails
SMALLEST = 1 / 255  # deviation of a cell that is always the same

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Cells = Annotated[tuple[Share, ...], msgspec.Meta(min_length=CELLS**2, max_length=CELLS**2)]


class Likeness(msgspec.Struct, frozen=True):
    """Ranges of simple measures over training images, of luma from 0 to 1.

    Attributes:
        brightness, contrast: the least and the largest mean and standard deviation of an image.
        cells, spread: mean and standard deviation, over the images, of each cell of thumbnails of 8×8, row by row.
        distance: the largest root mean square, over an image's cells, of (cell - mean) / deviation.
    """

    brightness: tuple[Share, Share]
    contrast: tuple[Share, Share]
    cells: Cells
    spread: Cells
    distance: Annotated[float, msgspec.Meta(ge=0, le=1e6)]


def likeness_of(split: Split | StreamedSplit, view: View) -> Likeness:
    """Measures at most 256 evenly spaced images of a training split, each as `view` shows it to the network."""
    indices = np.unique(np.linspace(0, len(split.labels) - 1, SAMPLED).astype(int)).tolist()
    if isinstance(split, Split):
        images = np.rint(split.images[indices]).astype(np.uint8)
    else:
        images = np.stack([view.fit(split.read(index)) for index in indices])
    brightness, contrast, cells = _measures(images)
    mean, spread = cells.mean(0), np.maximum(cells.std(0), SMALLEST)
    return Likeness(
        brightness=(float(brightness.min()), float(brightness.max())),
        contrast=(float(contrast.min()), float(contrast.max())),
        cells=tuple(mean.tolist()),
        spread=tuple(spread.tolist()),
        distance=float(_distance(cells, mean, spread).max()),
    )


def read_likeness(entry: Mapping[str, Any]) -> Likeness:
    """Reads what a card says of a network's training images; raises ValueError if it has another form."""
    return typed(dict(entry), Likeness)


def unlike(images: np.ndarray, known: Likeness) -> list[str | None]:
    """Tells which images differ from the training images, beyond twice the range of these.

    Args:
        images: (images, height, width, channels) uint8, as the network sees them.
        known: the measures of the training images.

    Returns:
        For each image what differs, in words with numbers, or None.
    """
    brightness, contrast, cells = _measures(images)
    distances = _distance(cells, np.asarray(known.cells), np.asarray(known.spread))
    reasons: list[str | None] = []
    for values in zip(brightness, contrast, distances, strict=True):
        ranges = {"brightness": known.brightness, "contrast": known.contrast, "distance": (0.0, known.distance)}
        outside = [
            f"{name} {value:.2f}, theirs {low:.2f} to {high:.2f}"
            for (name, (low, high)), value in zip(ranges.items(), values, strict=True)
            if not low - (high - low) / 2 <= value <= high + (high - low) / 2
        ]
        reasons.append("; ".join(outside) or None)
    return reasons


def _measures(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns brightness (images,), contrast (images,) and cells (images, 64) of images of one size."""
    luma = with_channels(images, 1)[..., 0] / 255
    return luma.mean((1, 2)), luma.std((1, 2)), _thumbnails(luma).reshape(len(images), -1)


def _thumbnails(luma: np.ndarray) -> np.ndarray:
    """Returns the means of 8×8 cells; images of fewer pixels are repeated first."""
    for axis in (1, 2):
        side = luma.shape[axis]
        edges = np.arange(CELLS) * side // CELLS
        widths = np.maximum(np.append(edges[1:], side) - edges, 1)
        shape = [1, 1, 1]
        shape[axis] = CELLS
        luma = np.add.reduceat(luma, edges, axis) / widths.reshape(shape)
    return luma


def _distance(cells: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.sqrt((((cells - mean) / spread) ** 2).mean(1))


def named(paths: Sequence[str], reasons: Sequence[str | None]) -> list[tuple[str, str]]:
    """Returns the paths of the images that are unlike the training images, each with what differs."""
    return [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason is not None]


def summed_up(strange: Sequence[tuple[str, str]], most: int = 3) -> list[str]:
    """Returns lines that name the first few of these images, and what differs, and count the others."""
    lines = [f"{path!r} is unlike the training images: {reason}" for path, reason in strange[:most]]
    rest = len(strange) - len(lines)
    return lines + ([f"{rest:,} more images are unlike the training images"] if rest else [])
