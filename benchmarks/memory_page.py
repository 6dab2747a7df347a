"""The tables and the plot of docs/memory.md, of what `benchmarks.memory` measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import DOCS, replace_between

PAGE = DOCS / "memory.md"
BEGIN, END = "<!-- {} by benchmarks.memory -->\n", "<!-- end of {} -->\n"
Rows = Sequence[dict[str, Any]]


def write_page(depths: Rows, prices: Rows) -> None:
    """Replaces the tables between their marks, and docs/images/memory.png."""
    for name, table in {"depth": by_depth(depths), "price": by_network(prices)}.items():
        replace_between(PAGE, BEGIN.format(name), END.format(name), table)
    draw(depths, DOCS / "images" / "memory.png")


def line_of(rows: Rows, arch: str, name: str) -> dict[str, Any]:
    """The straight line nearest to memory over layers, and how far the points are from it, in parts of the largest.

    Without the gradient of the parameters, of which there are as many as the square of the layers.
    """
    layers = np.array([row["layers"] for row in rows if row["arch"] == arch])
    megabytes = np.array([row[name]["temp_mb"] - row["gradient_mb"] for row in rows if row["arch"] == arch])
    slope, start = np.polyfit(layers, megabytes, 1)
    off = np.abs(megabytes - slope * layers - start).max() / megabytes.max()
    return {"arch": arch, "of": name, "mb a layer": slope, "mb of none": start, "off the line": off}


def by_depth(rows: Rows) -> str:
    """A line for each depth, and what the straight line through them is."""
    lines = ["| network | dense layers | default, MB | `remat`, MB | ratio | gradient of the parameters, MB |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        plain, again = row["default"]["temp_mb"], row["remat"]["temp_mb"]
        cells = [row["arch"], str(row["layers"]), f"{plain:.0f}", f"{again:.0f}", f"{again / plain:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {row['gradient_mb']:.0f} |")
    lines.append("")
    for arch in dict.fromkeys(row["arch"] for row in rows):
        fits = {name: line_of(rows, arch, name) for name in ("default", "remat")}
        lines.append(
            f"- {arch}: with `remat` {fits['remat']['mb a layer']:.1f} MB a layer beside the gradient of the "
            f"parameters, no depth further from that line than {100 * fits['remat']['off the line']:.1f} % of the "
            f"deepest; by default {100 * fits['default']['off the line']:.1f} %."
        )
    return "\n".join(lines) + "\n"


def by_network(rows: Rows) -> str:
    """A line for each network: memory, time and compile time, with and without."""
    lines = ["| network | batch | memory, MB | `remat`'s | step takes | compile, s | `remat`'s |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        plain, again = row["default"], row["remat"]
        cells = [
            row["arch"],
            str(row["batch"]),
            f"{plain['temp_mb']:.0f}",
            f"{again['temp_mb']:.0f}",
            f"{row['times as long']:.2f} × ({row['least']:.2f} to {row['most']:.2f})",
            f"{plain['compile_seconds']:.1f}",
            f"{again['compile_seconds']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: Rows, path: Path) -> None:
    """Memory over depth, a panel a network, with the straight lines nearest to the points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    archs = list(dict.fromkeys(row["arch"] for row in rows))
    figure, panels = plt.subplots(1, len(archs), figsize=(5 * len(archs), 3.6), layout="constrained", squeeze=False)
    for axes, arch in zip(panels[0], archs, strict=True):
        shown = [row for row in rows if row["arch"] == arch]
        layers = [row["layers"] for row in shown]
        for name, colour in (("default", "C0"), ("remat", "C1")):
            memory = [(row[name]["temp_mb"] - row["gradient_mb"]) / 1e3 for row in shown]
            axes.plot(layers, memory, "o", color=colour, label=name)
            fit = line_of(rows, arch, name)
            ends = [0, max(layers)]
            line = [(fit["mb of none"] + fit["mb a layer"] * end) / 1e3 for end in ends]
            axes.plot(ends, line, color=colour, linewidth=0.8)
        axes.set(
            title=f"{arch}, batch {shown[0]['batch']}",
            xlabel="dense layers",
            ylabel="beside the parameters' gradient, GB",
        )
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
