"""How the figures look: one size of type, colours that colour-blind readers can tell apart, legible at half size."""

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image


def new_figure(title: str, rows: int = 1, columns: int = 2, *, width: float = 10.0, height: float = 4.0) -> Any:
    """A figure under a title, and its panels: an array of `rows` by `columns` axes.

    Args:
        title: what is claimed, and of what it was measured.
        rows, columns: of panels.
        width: inches, of the whole figure.
        height: inches, of each row.
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


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG of 100 dots an inch: under 150 kB for lines and maps, by a palette of 128 colours."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    # By coverage: by the median cut a colour that few pixels have, as that of a thin line, becomes its neighbour.
    image = Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE)
    image.save(path, optimize=True)
