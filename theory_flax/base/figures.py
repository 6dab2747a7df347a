"""The style of all figures: one font size, colours that colour-blind readers can tell apart, legible at half size."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from common_flax.files import whole_file
from theory_flax.base.estimates import Estimate, estimate


def new_figure(title: str, rows: int = 1, columns: int = 2, *, width: float = 10.0, height: float = 4.0) -> Any:
    """Makes a figure with a title, and its panels: an array of `rows` by `columns` axes.

    Args:
        title: the claim, and the networks or data that it was measured on.
        rows, columns: numbers of panels.
        width: of the whole figure, in inches.
        height: of each row, in inches.
    """
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    figure.suptitle(title, fontsize=13)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    return figure, panels


def label(axes: Axes, title: str, x: str, y: str, *, legend: bool = True, columns: int = 1) -> None:
    """Names a panel and its axes, with their units."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    if legend:
        axes.legend(fontsize=10, ncols=columns)


def draw_band(axes: Axes, x: Any, values: np.ndarray, *, floor: float = -np.inf, color: str, **look: Any) -> None:
    """Draws the means of (seeds, points) values over x, in a band of their intervals unless there is one seed.

    On a logarithmic axis the band ends at `floor`, because an interval may reach below 0.
    """
    mean, low, high = np.array([estimate(column) for column in values.T]).T
    axes.plot(x, mean, color=color, **look)
    if len(values) > 1:
        axes.fill_between(x, np.maximum(low, floor), np.maximum(high, floor), color=color, alpha=0.15, lw=0)


def draw_bars(
    axes: Axes, x: Any, values: np.ndarray, average: Callable[[Any], Estimate] = estimate, **look: Any
) -> None:
    """Draws the averages of (seeds, points) values over x, with bars of their intervals unless there is one seed."""
    mean, low, high = np.array([average(column) for column in values.T]).T
    axes.errorbar(x, mean, None if np.isnan(low).any() else [mean - low, high - mean], **look)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG of 100 dots an inch with 128 colours, which keeps lines and maps under 150 kB."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    # Median cut would give thin lines, which are few pixels, the colour of their neighbours.
    image = Image.open(drawn, formats=("PNG",)).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE)
    with whole_file(path) as file:
        image.save(file, format="png", optimize=True)
