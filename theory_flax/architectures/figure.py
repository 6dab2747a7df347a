"""The figure of the claim, and its table for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path

from common_flax.palette import AMBER, BLACK, BLUE, GREEN, ORANGE, PINK, SKY
from theory_flax.architectures.claim import Architecture, Block, blocks, caption, main_path, shown
from theory_flax.architectures.experiment import TracedNetwork

INCHES, ABOVE, BELOW = 0.35, 4.7, 1.2  # height of a row; rows for titles; rows for the legend
LEGIBLE = 48  # the most boxes in a column; a longer network shows equal blocks once
TINTS = (SKY, AMBER, GREEN, PINK, BLUE, ORANGE)
STYLES: dict[str, dict[str, Any]] = {
    "identity": dict(color=BLACK, ls="-"),
    "projection": dict(color=ORANGE, ls="--"),
    "zero padding": dict(color=BLUE, ls="--"),
    "concatenation": dict(color=GREEN, ls="-"),
}


@dataclass(frozen=True)
class _Column:
    """A network as boxes below each other.

    Attributes:
        network: the network of the column.
        blocks: the blocks that are drawn, from top to bottom.
        tops: for each output size its first row, counted from the top.
        y: the row of each box, by its layer's place in the trace.
        drawn: for each layer of the main path the layer whose box stands for it: itself, or one of an equal block.
    """

    network: TracedNetwork
    blocks: tuple[Block, ...]
    tops: dict[tuple[int, int], float]
    y: dict[int, float]
    drawn: dict[int, int]


def draw(networks: Sequence[TracedNetwork]) -> Figure:
    """Draws networks side by side, with equal output sizes at equal heights if all have images of the same size."""
    aligned = len({network.image_shape for network in networks}) == 1
    groups = [networks] if aligned else [[network] for network in networks]
    columns = [column for group in groups for column in _lay_out(group)]
    bottom = max(max(column.y.values()) for column in columns) + 1.6

    words = [_words(column.network.trace, index) for column in columns for index in column.y]
    box = 0.078 * max(map(len, words)) + 0.16
    margin = 0.75  # for the output sizes, at the left of the page or of each column
    left, right = 1.25 if aligned else 1.25 + margin, 0.95
    pitch = left + box + right
    width, rows = max(margin * aligned + pitch * len(columns), 6.0), ABOVE + bottom + BELOW
    figure = Figure(figsize=(width, INCHES * rows))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(bottom + BELOW, -ABOVE))
    title = "Layers by the size of their output, and what skips them"
    axes.text(width / 2, 0.8 - ABOVE, title, ha="center", fontsize=13)
    axes.text(width / 2, 1.6 - ABOVE, "beside each stage: parameters · multiply-adds", ha="center", fontsize=10)
    for i, column in enumerate(columns):
        _draw_column(axes, column, margin * aligned + pitch * i + left, box)
        for (high, wide), top in () if aligned and i else column.tops.items():
            axes.text(0.08 + pitch * i, top, f"{high}×{wide}", fontsize=11, va="center", weight="bold")
            if aligned:
                axes.axhline(top - 0.75, color=BLACK, lw=0.5, alpha=0.3)
    _legend(axes, networks)
    return figure


def _lay_out(networks: Sequence[TracedNetwork]) -> list[_Column]:
    """Lays out networks in the same rows; the network with most boxes of an output size sets their number."""
    drawn = [blocks(network.trace, merge=len(shown(network.trace)) > LEGIBLE) for network in networks]
    boxes = [[index for block in of_network for index in block.layers] for of_network in drawn]
    sizes = [
        [network.trace.layers[index].size for index in of_network]
        for network, of_network in zip(networks, boxes, strict=True)
    ]
    tops: dict[tuple[int, int], float] = {}
    top = 0.0
    for size in sorted({size for of_network in sizes for size in of_network}, reverse=True):
        tops[size] = top
        top += max(of_network.count(size) for of_network in sizes) + 0.6
    columns = []
    for i, network in enumerate(networks):
        y = {index: tops[sizes[i][j]] + sizes[i][:j].count(sizes[i][j]) for j, index in enumerate(boxes[i])}
        in_place = [index for block in drawn[i] for _ in range(block.times) for index in block.layers]
        columns.append(_Column(network, drawn[i], tops, y, dict(zip(shown(network.trace), in_place, strict=True))))
    return columns


def _words(network: Architecture, index: int) -> str:
    return caption(network.layers[index]).replace("average", "avg")


def _draw_column(axes: Axes, column: _Column, x: float, box: float) -> None:
    """Draws title, boxes, lines, connections, and the size of each stage to the left of its first box."""
    network, trace, centre = column.network, column.network.trace, x + box / 2
    axes.text(centre, -2.15, network.name, ha="center", fontsize=13, weight="bold")
    sizes = f"{_short(network.parameters)} parameters\n{_short(network.multiply_adds)} multiply-adds"
    axes.text(centre, -0.95, sizes, ha="center", fontsize=10)
    seen: set[str] = set()
    before = None
    for block in column.blocks:
        for index in block.layers:
            layer, y = trace.layers[index], column.y[index]
            tint = TINTS[trace.stages.index(layer.stage) % len(TINTS)]
            edge: dict[str, Any] = dict(boxstyle="round,pad=0,rounding_size=0.05", lw=0.8, ec=BLACK)
            face = "#dddddd" if "pool" in layer.kind else (tint, 0.3)
            axes.add_patch(FancyBboxPatch((x, y - 0.36), box, 0.72, fc=face, mutation_aspect=3, **edge))
            axes.text(centre, y, _words(trace, index), ha="center", va="center", fontsize=9.5)
            if before is not None:
                axes.plot([centre] * 2, [before + 0.36, y - 0.36], color=BLACK, lw=0.8)
            before = y
            if layer.stage not in seen:
                seen.add(layer.stage)
                stage = network.stages[trace.stages.index(layer.stage)]
                size = f"{_short(stage.parameters)} · {_short(stage.multiply_adds)}"
                axes.text(x - 0.1, y, f"{stage.name}\n{size}", ha="right", va="center", fontsize=9, linespacing=1.3)
        if block.times > 1:
            top, bottom = column.y[block.layers[0]] - 0.46, column.y[block.layers[-1]] + 0.46
            axes.add_patch(Rectangle((x - 0.05, top), box + 0.1, bottom - top, fill=False, lw=1.2, ec=BLACK, ls=":"))
            axes.text(x - 0.15, bottom - 0.46, f"×{block.times}", ha="right", va="center", fontsize=12)
    _connect(axes, column, x + box)


def _connect(axes: Axes, column: _Column, x: float) -> None:
    """Draws connections as arcs to the right of the boxes, from `x`; longer ones reach further."""
    ends = [(column.drawn[arc.start], column.drawn[arc.end], arc.kind) for arc in column.network.shortcuts]
    spans = {end: column.y[end[1]] - column.y[end[0]] for end in ends}
    dense = [span for (*_, kind), span in spans.items() if kind == "concatenation"]
    thin = 0.5 if len(dense) > 100 else 0.8
    for (start, end, kind), span in spans.items():
        joins = kind == "concatenation"
        if start == end:
            continue  # a shortcut between equal blocks that are drawn once
        first, last = column.y[start] + (0.1 if joins else 0.42), column.y[end] - (0.1 if joins else -0.42)
        bulge = 0.15 + 0.85 * abs(span) / max(dense) if joins else 0.55
        curve = Path([(x, first), (x + bulge, first), (x + bulge, last), (x, last)], [1, 4, 4, 4])
        style: dict[str, Any] = dict(STYLES[kind], lw=thin if joins else 1.3)
        axes.add_patch(PathPatch(curve, fill=False, **style))


def _legend(axes: Axes, networks: Sequence[TracedNetwork]) -> None:
    kinds = {shortcut.kind for network in networks for shortcut in network.shortcuts}
    words = {
        "identity": "identity shortcut",
        "projection": "shortcut where dimensions rise: projection",
        "zero padding": "shortcut where dimensions rise: zero padding",
        "concatenation": "read by a later layer, beside others",
    }
    lines = [Line2D([], [], lw=1.5, label=words[kind], **STYLES[kind]) for kind in STYLES if kind in kinds]
    if lines:
        axes.legend(handles=lines, loc="lower center", ncols=min(len(lines), len(networks)), fontsize=10, frameon=False)


def _short(count: float) -> str:
    """Returns a count with three digits: "21.8 M"."""
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            digits = max(0, 2 - int(np.log10(count / unit)))
            return f"{count / unit:.{digits}f} {word}"
    return str(count)


def summary(networks: Sequence[TracedNetwork]) -> list[str]:
    """Returns a table of each network by stage."""
    lines = []
    for network in networks:
        kinds = [shortcut.kind for shortcut in network.shortcuts]
        connections = ", ".join(f"{kinds.count(kind)} of {kind}" for kind in dict.fromkeys(kinds)) or "none"
        depth = sum(network.trace.layers[i].kind in ("conv", "fc") for i in main_path(network.trace))
        lines += [
            f"{network.name} on {'×'.join(map(str, network.image_shape))}: {network.parameters:,} parameters, "
            f"{network.multiply_adds:,} multiply-adds; {depth} layers with weights; connections: {connections}"
        ]
        lines.append(f"  {'':8} {'output':>12}  {'layer':32} {'':>5} {'parameters':>12} {'multiply-adds':>15}")
        for stage in network.stages:
            for i, row in enumerate(stage.rows):
                size = f"{row.size[0]}×{row.size[1]}×{row.channels}"
                lines.append(
                    f"  {stage.name if i == 0 else '':8} {size:>12}  {row.what:32} {f'×{row.count}':>5} "
                    f"{row.parameters:12,} {row.multiply_adds:15,}"
                )
            if len(stage.rows) > 1:
                lines.append(f"  {'':8} {'':12}  {'':32} {'sum':>5} {stage.parameters:12,} {stage.multiply_adds:15,}")
    return lines
