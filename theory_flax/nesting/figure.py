"""The figure of the claim, and its lines on the terminal."""

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common_flax.palette import BLACK, BLUE, COLOURS, GREEN, ORANGE
from theory_flax.base.estimates import geometric
from theory_flax.base.figures import draw_bars, label, new_figure
from theory_flax.nesting.experiment import EVERY, LEVEL, RADIUS, WIDTH, Families, Report, Use


def draw(report: Report) -> Figure:
    """Draws the regions of both kinds, the distance by depth, and the use of deepening."""
    title = f"Nested families of functions only come nearer: towers of {WIDTH} channels, ‖θ‖² ≤ {RADIUS**2:.0f}"
    figure, panels = new_figure(title, 2, 2, width=9.0, height=3.7)
    axes: list[Axes] = list(panels.flat)
    for panel, families in zip(axes[:2], report.families, strict=True):
        _draw_regions(panel, families, report)
    _draw_distances(axes[2], report)
    _draw_use(axes[3], report.use)
    return figure


def _draw_regions(axes: Axes, families: Families, report: Report) -> None:
    around = np.concatenate([report.angles, report.angles + np.pi, report.angles[:1]])
    for depth, row, colour in zip(families.depths, families.regions, COLOURS, strict=False):
        radii = np.concatenate([row, row, row[:1]])
        text = f"{depth} block{'s' if depth > 1 else ''}"
        axes.plot(radii * np.cos(around), radii * np.sin(around), "o-", ms=3, color=colour, label=text)
    axes.plot([1], [0], "*", ms=14, color=BLACK, label=f"target: {report.targets[0]}")
    axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 1.5), aspect="equal")
    kind = "not nested: plain towers" if families.kind == "plain" else "nested: residual towers"
    label(axes, f"{kind}, region within {LEVEL}", "share of the target", "of a second function")
    axes.legend(fontsize=9, loc="lower center", ncols=3)


def _draw_distances(axes: Axes, report: Report) -> None:
    for families, colour, marker in zip(report.families, (ORANGE, BLUE), ("s", "o"), strict=True):
        by_seed = families.distances.mean(1).T
        draw_bars(axes, families.depths, by_seed, fmt=f"{marker}-", color=colour, capsize=3, label=families.kind)
        axes.plot(families.depths, families.distances.mean(2), color=colour, lw=0.7, alpha=0.5)
        if families.bounds.any():
            axes.plot(families.depths, families.bounds.mean(1), ":", color=BLACK, label="plain: no member is nearer")
    axes.set_xscale("log", base=2)
    axes.set_xticks(report.families[0].depths, [str(depth) for depth in report.families[0].depths])
    axes.set_ylim(0, 1.5)
    label(axes, f"mean of {len(report.targets)} targets (thin: each), 95 % over seeds", "blocks", "distance, rms")
    axes.legend(fontsize=9, loc="upper left", ncols=2)


def _draw_use(axes: Axes, use: Use) -> None:
    for (name, spent), colour in zip(use.spent.items(), (GREEN, BLACK), strict=True):
        text = f"{use.names[0]}, deepened to {use.names[1]}" if name == "deepened" else f"{use.names[1]} {name}"
        axes.plot(spent, np.exp(np.log(use.losses[name]).mean(0)), "o-", ms=3, color=colour, label=text)
        axes.plot(spent, use.losses[name].T, color=colour, lw=0.7, alpha=0.5)
    axes.axvline(use.spent["deepened"][use.steps[0] // EVERY - 1], color=GREEN, ls=":", lw=1)
    axes.set_yscale("log")
    axes.set_ylim(top=6 * axes.get_ylim()[1])  # leaves room for the legend
    label(axes, "digits: the use of it (mean; thin: each seed)", "10⁹ multiply-adds of forward passes", "training loss")


def summary(report: Report) -> list[str]:
    """Describes the result in lines of text."""
    lines = []
    for families in report.families:
        worse = sum(float(np.max(after - before)) > 1e-6 for before, after in pairwise(families.distances))
        rows = families.distances.reshape(len(families.depths), -1)
        rises = (np.diff(rows, axis=0) > 1e-6).any(0)
        lines.append(
            f"{families.kind}: farther away with more blocks in {rises.sum()} of {rises.size} chains of fits, at "
            f"{worse} of {len(rows) - 1} steps in depth; mean distance {rows[0].mean():.3f} with "
            f"{families.depths[0]} block, {rows.min(0).mean():.3f} at best, {rows[-1].mean():.3f} with "
            f"{families.depths[-1]}"
        )
        if families.bounds.any():
            certain = families.bounds[-1][:, None] > families.distances.min(0)
            lines.append(
                f"{families.kind}: of {families.depths[-1]} blocks none can come nearer than "
                f"{families.bounds[-1].min():.3f} to {families.bounds[-1].max():.3f}; fewer blocks did in "
                f"{certain.sum()} of {certain.size} chains"
            )
    use = report.use
    last = {name: losses[:, -1] for name, losses in use.losses.items()}
    gain = geometric(last["from scratch"] / last["deepened"])
    lines.append(
        f"{use.names[0]} for {use.steps[0]} steps, deepened to {use.names[1]} for {use.steps[1]}, against "
        f"{use.steps[2]} from scratch, the same compute: loss {geometric(last['deepened']).mean:.4f} against "
        f"{geometric(last['from scratch']).mean:.4f}, a factor of {gain.mean:.2f} "
        f"(95 %: {gain.low:.2f} to {gain.high:.2f})"
    )
    return lines
