"""The figure of the claim, and its lines on the terminal."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common_flax.palette import BLACK, BLUE, COLOURS, ORANGE
from theory_flax.base.estimates import estimate
from theory_flax.base.figures import draw_band, label, new_figure
from theory_flax.identity_mapping.claim import IdentityMapping, StackRuns
from theory_flax.identity_mapping.experiment import Report, kind_of


def draw(report: Report) -> Figure:
    """Draws errors of both kinds of stacks through time, sizes of branches, and responses by layer."""
    figure, panels = new_figure(
        "Residual stacks learn the identity, plain ones do not (bands and bars are 95 % intervals)", 2, 2, height=4.0
    )
    for axes, found in zip(panels[0], report.stacks, strict=True):
        _draw_errors(axes, found)
    branches, responses = panels[1]
    for found, colour, shift in zip(report.stacks, (BLUE, ORANGE), (0.97, 1.03), strict=True):
        for when, marker, fill in (("before", "o", "white"), ("after", "s", colour)):
            sizes = [estimate(getattr(runs, f"branches_{when}").mean(1)) for runs in found.residual]
            mean, _, high = np.array(sizes).T
            counts = np.array([runs.blocks for runs in found.residual]) * shift
            look: dict[str, Any] = dict(fmt=f"{marker}-", mfc=fill, ms=5, capsize=3, color=colour)
            branches.errorbar(counts, mean, np.nan_to_num(high - mean), label=f"{found.block}, {when}", **look)
    branches.set_xscale("log", base=2)
    branches.set_xticks([runs.blocks for runs in report.stacks[0].residual])
    branches.xaxis.set_major_formatter("{x:g}")
    branches.set_ylim(0, 1.6 * branches.get_ylim()[1])  # leaves room for the legend
    for network, colour in zip(report.responses, COLOURS, strict=False):
        layers = np.linspace(0, 1, network.after.shape[1])
        draw_band(responses, layers, network.after, marker="o", ms=3, color=colour, label=network.name)
    responses.axhline(1, color=BLACK, lw=0.8, ls=":")
    label(branches, "branches of residual stacks, before and after", "blocks in the stack", "‖h(x)‖ / ‖x‖")
    label(
        responses,
        f"layer responses after {report.steps} steps (1 before)",
        "depth of the layer, first 0 to last 1",
        "standard deviation",
    )
    return figure


def _draw_errors(axes: Axes, found: IdentityMapping) -> None:
    for stacks, style in ((found.plain, "-"), (found.residual, "--")):
        for runs, colour in zip(stacks, COLOURS, strict=False):
            steps = (np.arange(runs.error.shape[1]) + 0.5) * found.window
            draw_band(axes, steps, runs.error, floor=1e-5, ls=style, color=colour, label=kind_of(runs))
    axes.set_yscale("log")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 50)  # leaves room for the legend
    label(axes, f"{found.block}: solid plain, dashed residual", "step", "‖f(x) − x‖² / ‖x − mean‖²", legend=False)
    axes.legend(fontsize=8, ncols=2)


def _when(runs: StackRuns, found: IdentityMapping) -> str:
    """Says after how many steps the mean error over seeds is below 0.1."""
    below = np.flatnonzero(runs.error.mean(0) < 0.1)
    return f"after {(below[0] + 1) * found.window} steps" if len(below) else "never"


def summary(report: Report) -> list[str]:
    """Describes the result in lines of text."""
    lines = []
    for found in report.stacks:
        for plain, residual in zip(found.plain, found.residual, strict=True):
            gap = estimate(plain.final_error - residual.final_error)
            lines.append(
                f"{found.block}, {kind_of(plain)}: error {plain.final_error.mean():.4f}, below 0.1 "
                f"{_when(plain, found)}; residual {residual.final_error.mean():.4f}, {_when(residual, found)}; "
                f"plain minus residual {gap:+.3f}; residual branches "
                f"{residual.branches_before.mean():.2f} before, {residual.branches_after.mean():.2f} after"
            )
    for responses in report.responses:
        before, after = (estimate(values.mean(1)) for values in (responses.before, responses.after))
        lines.append(
            f"{responses.name}: mean response {before.mean:.3f} before training, {after:.3f} after {report.steps} steps"
        )
    return lines
