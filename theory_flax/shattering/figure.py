"""The figure of the claim, and its lines on the terminal."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common_flax.palette import AMBER, BLACK, BLUE, GREEN, ORANGE, PINK, SKY
from theory_flax.base.figures import label, new_figure
from theory_flax.shattering.claim import white_noise_band
from theory_flax.shattering.experiment import LAGS, LAWS, LINES, POINTS, RANGE, Report
from theory_flax.shattering.fully_connected import GradientCorrelation
from theory_flax.shattering.laws import fit_base, theorem_correlation, wide_correlation

FAMILIES = {"plain": (AMBER, ORANGE), "resnet": (SKY, BLUE), "densenet": (PINK,), "": (GREEN, BLACK)}


def draw(report: Report) -> Figure:
    """Draws gradients beside noise, autocorrelations with and without shortcuts, and correlations beside the laws."""
    title = "With depth, gradients of plain networks become white noise"
    figure, panels = new_figure(title, 2, 2, width=13.0)
    traces, lines, laws, networks = panels.flat
    _draw_traces(traces, report)

    deepest = report.depths.index(50)
    lags = np.arange(LAGS + 1)
    for curve in report.lines:
        _draw_curve(lines, lags, curve.mean[deepest], curve.error[deepest], LINES[curve.name][1], curve.name)
    lines.plot(lags, report.brown.mean, ":", color=BLACK, label="brown noise")
    _finish(lines, "autocorrelation along [−2, 2], 50 layers", POINTS)

    for law in report.laws:
        depths = [found.depth for found in law.correlations]
        colour = LAWS[law.name][1]
        values, errors = ([getattr(found, of) for found in law.correlations] for of in ("value", "error"))
        laws.errorbar(depths, values, 1.96 * np.array(errors), fmt="o", ms=4, color=colour, label=law.name)
        between = range(min(depths), max(depths) + 1)
        laws.plot(between, [wide_correlation(law.network, depth) for depth in between], "-", lw=1, color=colour)
        laws.plot(between, [theorem_correlation(law.network, depth) for depth in between], ":", lw=1.5, color=colour)
    laws.plot([], [], "-", lw=1, color=BLACK, label="infinite width")
    laws.plot([], [], ":", lw=1.5, color=BLACK, label="the paper's theorem")
    laws.set(xscale="log", yscale="log")
    ticks = [2**i for i in range(8) if 2**i <= max(found.depth for law in report.laws for found in law.correlations)]
    laws.set_xticks(ticks, [str(tick) for tick in ticks])
    laws.minorticks_off()
    _label(laws, "correlation at two independent inputs", "layers", "correlation of gradients")

    families = dict.fromkeys(FAMILIES, 0)
    for curve in report.networks:
        family = next((family for family in FAMILIES if curve.name.startswith(family)), "")
        count, colours = families[family], FAMILIES[family]
        families[family] += 1
        style = ("-", "--", ":")[count // len(colours) % 3]
        _draw_curve(networks, lags, curve.mean, curve.error, colours[count % len(colours)], curve.name, style)
    _finish(networks, "networks for images, between two of them", report.points)
    return figure


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    """Names a panel as `label` does, with the legend outside, because the curves leave no room inside."""
    label(axes, title, x, y, legend=False)
    axes.legend(fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_traces(axes: Axes, report: Report) -> None:
    """Draws gradients, each to its own scale, one above the other."""
    by_name = {curve.name: curve.example for curve in report.lines}
    deepest = report.depths.index(50)
    plain, residual = by_name["plain, BatchNorm"], by_name["residual β = .1, BatchNorm"]
    assert plain is not None and residual is not None and report.white.example is not None
    shown = {
        "brown\nnoise": (report.brown.example, BLACK),
        "plain,\n8 layers": (plain[report.depths.index(8)], ORANGE),
        "residual,\nβ = .1,\n50 layers": (residual[deepest], BLUE),
        "plain,\n50 layers": (plain[deepest], ORANGE),
        "white\nnoise": (report.white.example, BLACK),
    }
    inputs = np.linspace(-RANGE, RANGE, POINTS)
    heights = -6.0 * np.arange(len(shown))
    for height, (values, colour) in zip(heights, shown.values(), strict=True):
        assert values is not None
        axes.plot(inputs, (values - values.mean()) / values.std() + height, lw=0.9, color=colour)
    axes.set_yticks(heights, list(shown), fontsize=9)
    label(axes, "∂f/∂x on a line of inputs, with BatchNorm", "input x", "", legend=False)


def _draw_curve(
    axes: Axes, lags: np.ndarray, mean: np.ndarray, error: np.ndarray, colour: str, name: str, style: str = "-"
) -> None:
    axes.plot(lags, mean, style, color=colour, lw=1.5, label=name)
    axes.fill_between(lags, mean - 1.96 * error, mean + 1.96 * error, color=colour, alpha=0.2, lw=0)


def _finish(axes: Axes, title: str, points: int) -> None:
    """Draws the band of white noise, and names a panel of autocorrelations."""
    band = white_noise_band(points)
    axes.axhspan(-band, band, color=BLACK, alpha=0.1, lw=0, label="white noise, 95 %")
    axes.set_ylim(-0.25, 1.02)
    _label(axes, title, f"lag (of {points} points)", "autocorrelation")


def summary(report: Report) -> list[str]:
    """Describes the result in lines of text."""
    lines = []
    for law in report.laws:
        wide, theorem = (_largest_miss(law.correlations, of) for of in (law.wide, law.theorem))
        fit = "b of b^L" if LAWS[law.name][2] is fit_base else "p of L^p"
        lines.append(
            f"{law.name}: {fit} is {law.fit.value:.3f} [{law.fit.low:.3f}, {law.fit.high:.3f}]; "
            f"at most {theorem:.1f} standard errors from the theorem, {wide:.1f} from infinite width"
        )
    deepest = report.depths.index(50)
    for curve in report.lines:
        by_depth = [f"{mean:.3f} ({depth})" for depth, mean in zip(report.depths, curve.mean[:, 1], strict=True)]
        lines.append(f"{curve.name}: lag-1 autocorrelation by layers {', '.join(by_depth)}")
    plain = next(curve for curve in report.lines if curve.name == "plain, BatchNorm")
    outside = np.abs(plain.mean[deepest, 1:11]).max()
    lines.append(
        f"plain with BatchNorm, 50 layers: at lags 1 to 10 at most {outside:.3f} from 0; "
        f"white noise stays within {white_noise_band(POINTS):.3f}"
    )
    for curve in report.networks:
        lines.append(f"{curve.name}: lag-1 autocorrelation {curve.mean[1]:.3f} ± {curve.error[1]:.3f} between images")
    return lines


def _largest_miss(correlations: Sequence[GradientCorrelation], law: np.ndarray) -> float:
    return max(abs(found.value - says) / found.error for found, says in zip(correlations, law, strict=True))
