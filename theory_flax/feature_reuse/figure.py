"""The figure of the claim, and its lines on the terminal."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from common_flax.palette import BLACK, BLUE, GREEN, ORANGE
from common_flax.terminal import as_label
from theory_flax.base.estimates import Estimate, estimate, geometric
from theory_flax.base.figures import draw_bars, label
from theory_flax.feature_reuse.experiment import Point, Report, Supervised

KINDS = {"DenseNet": (GREEN, "o"), "ResNet": (BLUE, "s"), "plain": (ORANGE, "^")}


def draw(report: Report) -> Figure:
    """Draws the weights of each block, the gradient at each layer and its direct share, and errors over costs."""
    figure = Figure(figsize=(11, 11.5), layout="constrained")
    figure.suptitle(as_label(f"Feature reuse: {report.network}"), fontsize=13)
    rows: Any = figure.subfigures(3, 1, height_ratios=(1.05, 1, 1))
    top, middle, bottom = rows
    maps = top.subplots(1, len(report.weights), squeeze=False)[0]
    for index, (axes, block) in enumerate(zip(maps, report.weights, strict=True)):
        shown = _draw_map(axes, block, index, "classifier" if index == len(maps) - 1 else "transition")
    bar = top.colorbar(shown, ax=maps, shrink=0.85)
    bar.set_label("mean |weight|, over the target's largest", fontsize=11)

    share, norm = middle.subplots(1, 2)
    for network in report.supervised:
        _draw_gradients(share, norm, network)
    norm.set_yscale("log")
    label(share, "gradient that passes no later layer", "depth, convolutions", "share of ‖∂L/∂h‖", legend=False)
    label(norm, "gradient at each layer's output", "depth, convolutions", "‖∂L/∂h‖", legend=False)
    handles, names = share.get_legend_handles_labels()
    middle.legend(handles, names, loc="outside upper center", ncols=4, fontsize=10)

    own, parameters, adds = bottom.subplots(1, 3)
    _draw_points(own, report.points, "parameters")
    _draw_points(parameters, report.published, "parameters")
    _draw_points(adds, report.published, "multiply_adds")
    where = report.points[0].source if report.points else "no finished run"
    label(own, f"{where}, trained here", "parameters", "test error, %", legend=False)
    label(parameters, "CIFAR-10+, published", "parameters", "test error, %", legend=False)
    label(adds, "CIFAR-10+, published", "multiply-adds of an image", "test error, %", legend=False)
    handles, names = parameters.get_legend_handles_labels()
    bottom.legend(handles, names, loc="outside upper center", ncols=2, fontsize=10)
    for axes in (share, norm, own, parameters, adds):
        axes.grid(alpha=0.3)
    return figure


def _draw_map(axes: Axes, block: np.ndarray, index: int, reader: str) -> Any:
    size = len(block)
    shown = axes.imshow(block, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    ticks = np.arange(0, size, max(1, size // 6))
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    inner = [tick for tick in ticks if tick < size - 1]
    axes.set_xticks(np.array([*inner, size - 1]), [*(str(tick + 1) for tick in inner), reader[:5] + "."])
    axes.axvline(size - 1.5, color=BLACK, lw=1.5)
    label(axes, f"dense block {index + 1}", f"target layer; {reader}", "source layer; 0 is the input", legend=False)
    return shown


def _draw_gradients(share: Axes, norm: Axes, network: Supervised) -> None:
    """Draws means and intervals at initialisation; trained networks, which differ more, seed by seed."""
    colour, marker = KINDS[network.kind]
    style: dict[str, Any] = dict(color=colour, marker=marker, ms=4)
    ends = np.cumsum([len(stage[0].total) for stage in network.stages])
    for i, (stage, depth) in enumerate(zip(network.stages, np.split(network.depth, ends[:-1]), strict=True)):
        words = f"{network.name}, {network.when}" if i == 0 else None
        shares, norms = np.array([[of_seed.direct_share, of_seed.total] for of_seed in stage]).swapaxes(0, 1)
        if network.when == "trained":
            for axes, values in ((share, shares), (norm, norms)):
                for j, line in enumerate(values):
                    axes.plot(depth, line, ls="--", lw=1, mfc="white", label=None if j else words, **style)
            continue
        for axes, values, average in ((share, shares, estimate), (norm, norms, geometric)):
            draw_bars(axes, depth, values, average, lw=1.4, capsize=2, label=words, **style)


def _draw_points(axes: Axes, points: Sequence[Point], cost: str) -> None:
    for kind in ("ResNet", "DenseNet"):
        of_kind = [point for point in points if point.kind == kind]
        if not of_kind:
            continue
        errors = [point.error.mean for point in of_kind]
        reach = [np.nan_to_num(point.error.high - point.error.mean) for point in of_kind]
        colour, marker = KINDS[kind]
        costs = [getattr(point, cost) for point in of_kind]
        axes.errorbar(costs, errors, reach, fmt=marker, ms=6, color=colour, capsize=3, label=kind)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    powers = np.log10([getattr(point, cost) for point in points] or [1])
    axes.set_xlim(10 ** (np.floor(powers.min()) - 0.1), 10 ** (np.ceil(powers.max()) + 0.1))
    axes.set_ylim(bottom=0)


def summary(report: Report) -> list[str]:
    """Describes the result in lines of text, without intervals if there is one seed."""
    lines = []
    words = {
        "input_row": "weight on the block's input, over that on its layers",
        "last_sources": "the reader's weight on the last third of the layers, over the first",
        "unevenness": "deviation of a layer's weights over its sources, over their mean",
    }
    for name, meaning in words.items():
        for when, found in (("trained", report.trained), ("at first", report.initial)):
            blocks = "; ".join(f"block {i + 1} {_said(block)}" for i, block in enumerate(found[name]))
            lines.append(f"{meaning}, {when}: {blocks}")
    for network in report.supervised:
        first = "; ".join(
            f"stage {i + 1} {_said(estimate([100 * one.direct_share[0] for one in stage]))} %"
            for i, stage in enumerate(network.stages)
        )
        grown = geometric(
            [first.total[0] / last.total[-1] for first, last in zip(network.stages[0], network.stages[-1], strict=True)]
        )
        lines.append(
            f"{network.name} {network.when}: of the first layer's gradient comes directly: {first}; "
            f"‖∂L/∂h‖ of the first over the last layer of the network: {_said(grown)}"
        )
    for point in report.points:
        lines.append(
            f"{point.name}: {point.parameters:,} parameters, {point.multiply_adds:,} multiply-adds, "
            f"test error {_said(point.error)} %"
        )
    return lines


def _said(found: Estimate) -> str:
    if math.isnan(found.low):
        return f"{found.mean:.3g}"
    return f"{found.mean:.3g} ({found.low:.3g} to {found.high:.3g})"
