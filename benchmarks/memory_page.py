"""Tables and plot of docs/memory.md, from the results of `benchmarks.memory`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import DOCS, markdown, replace_between

PAGE = DOCS / "memory.md"
BEGIN, END = "<!-- {} by benchmarks.memory -->\n", "<!-- end of {} -->\n"
Rows = Sequence[dict[str, Any]]


def write_page(depths: Rows, prices: Rows) -> None:
    """Replaces the tables between their marks, and docs/images/memory.png."""
    for name, table in {"depth": by_depth(depths), "price": by_network(prices)}.items():
        replace_between(PAGE, BEGIN.format(name), END.format(name), table)
    draw(depths, DOCS / "images" / "memory.png")


def line_of(rows: Rows, arch: str, name: str) -> dict[str, Any]:
    """Fits a straight line to memory over layers; "off the line" is the largest distance relative to the most memory.

    The gradient of the parameters is left out, since it grows with the square of the number of layers.
    """
    layers = np.array([row["layers"] for row in rows if row["arch"] == arch])
    megabytes = np.array([row[name]["temp_mb"] - row["gradient_mb"] for row in rows if row["arch"] == arch])
    slope, start = np.polyfit(layers, megabytes, 1)
    off = np.abs(megabytes - slope * layers - start).max() / megabytes.max()
    return {"arch": arch, "of": name, "mb a layer": slope, "mb of none": start, "off the line": off}


def by_depth(rows: Rows) -> str:
    """Returns a line for each depth, and the straight line through all depths."""
    heads = ("network", "dense layers", "default, MB", "`remat`, MB", "ratio", "gradient of the parameters, MB")
    cells = []
    for row in rows:
        plain, again = row["default"]["temp_mb"], row["remat"]["temp_mb"]
        megabytes = f"{plain:.0f}", f"{again:.0f}", f"{again / plain:.2f}", f"{row['gradient_mb']:.0f}"
        cells.append((row["arch"], row["layers"], *megabytes))
    lines = [markdown(heads, cells)]
    for arch in dict.fromkeys(row["arch"] for row in rows):
        fits = {name: line_of(rows, arch, name) for name in ("default", "remat")}
        lines.append(
            f"- {arch}: with `remat` {fits['remat']['mb a layer']:.1f} MB a layer beside the gradient of the "
            f"parameters, no depth further from that line than {100 * fits['remat']['off the line']:.1f} % of the "
            f"deepest; by default {100 * fits['default']['off the line']:.1f} %."
        )
    return "\n".join(lines) + "\n"


def by_network(rows: Rows) -> str:
    """Returns a line for each network: memory, time and compile time with and without `remat`."""
    heads = ("network", "batch", "memory, MB", "`remat`'s", "step takes", "compile, s", "`remat`'s")
    cells = []
    for row in rows:
        memory = [f"{row[name]['temp_mb']:.0f}" for name in ("default", "remat")]
        compiling = [f"{row[name]['compile_seconds']:.1f}" for name in ("default", "remat")]
        times = f"{row['times as long']:.2f} × ({row['least']:.2f} to {row['most']:.2f})"
        cells.append((row["arch"], row["batch"], *memory, times, *compiling))
    return markdown(heads, cells)


def draw(rows: Rows, path: Path) -> None:
    """Draws memory over depth, a panel for each network, with the fitted lines."""
    from matplotlib.figure import Figure

    archs = list(dict.fromkeys(row["arch"] for row in rows))
    figure = Figure(figsize=(5 * len(archs), 3.6), layout="constrained")
    panels = figure.subplots(1, len(archs), squeeze=False)
    for axes, arch in zip(panels[0], archs, strict=True):
        shown = [row for row in rows if row["arch"] == arch]
        layers = [row["layers"] for row in shown]
        for name, colour in (("default", "C0"), ("remat", "C1")):
            memory = [(row[name]["temp_mb"] - row["gradient_mb"]) / 1e3 for row in shown]
            axes.plot(layers, memory, "o", color=colour, label=name)
            fit = line_of(rows, arch, name)
            line = [(fit["mb of none"] + fit["mb a layer"] * end) / 1e3 for end in (0, max(layers))]
            axes.plot([0, max(layers)], line, color=colour, linewidth=0.8)
        axes.set(
            title=f"{arch}, batch {shown[0]['batch']}",
            xlabel="dense layers",
            ylabel="beside the parameters' gradient, GB",
        )
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path, dpi=110)
