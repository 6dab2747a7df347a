"""The figure of the claim, and its lines on the terminal."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from common_flax.palette import BLUE, ORANGE
from theory_flax.base.estimates import estimate
from theory_flax.base.figures import draw_band, label, new_figure
from theory_flax.degradation.claim import NetworkRuns
from theory_flax.degradation.experiment import Report

COLOURS = ((BLUE, "-"), (ORANGE, "-"), (BLUE, "--"), (ORANGE, "--"))


def draw(report: Report) -> Figure:
    """Draws training losses through time, errors at the end, and gradients through depth and time."""
    found, setting = report.found, report.setting
    networks = (*found.plain, *found.residual)
    data = setting.data.split(":")[0] if report.published is None else "CIFAR-10"
    figure, panels = new_figure(
        f"Deeper plain networks train worse, residual ones do not ({data}, {len(found.seeds)} seeds)", 3, 2, height=3.7
    )
    loss, errors, depth, late, time, scaled = panels.flat
    steps = (np.arange(networks[0].loss.shape[1]) + 0.5) * setting.window
    for network, (colour, style) in zip(networks, COLOURS, strict=True):
        look: dict[str, Any] = dict(color=colour, ls=style)
        draw_band(loss, steps, network.loss, floor=1e-4, label=f"{network.name}, rate {network.rate:g}", **look)
        layers = np.linspace(0, 1, len(network.first_norms))
        depth.plot(layers, network.first_norms, **look, label=network.name)
        second_half = network.scaled_norms[len(steps) // 2 :].mean(0)
        late.plot(layers, second_half, **look, label=network.name)
        time.plot(steps, network.gradient_norms[:, 0], **look, label=network.name)
        scaled.plot(steps, network.scaled_norms[:, 0], **look, label=network.name)
    _bars(errors, networks, report.published)
    for axes in (loss, depth, late, time, scaled):
        axes.set_yscale("log")
    late.set_ylim(top=20 * late.get_ylim()[1])  # leaves room for the legend
    loss.set_ylim(bottom=max(loss.get_ylim()[0], 1e-4))
    label(loss, "training loss; bands are 95 % intervals", "step", "cross-entropy, nats")
    label(depth, "gradients at the first step", "depth of the layer, first 0 to last 1", "‖∂L/∂W‖")
    late.yaxis.set_minor_formatter(NullFormatter())
    label(late, "second half of training, free of scale", "depth of the layer, first 0 to last 1", "‖W‖ ‖∂L/∂W‖")
    label(time, "first layer through training", "step", "‖∂L/∂W‖")
    label(scaled, "first layer through training, free of scale", "step", "‖W‖ ‖∂L/∂W‖")
    return figure


def _bars(axes: Axes, networks: tuple[NetworkRuns, ...], published: dict[str, float] | None) -> None:
    """Draws errors at the end of training, with intervals."""
    places = np.arange(len(networks))
    for shift, colour, what in ((-0.2, BLUE, "training"), (0.2, ORANGE, "test")):
        values = [network.final_error if what == "training" else network.test_error for network in networks]
        mean, _, high = np.array([estimate(100 * value) for value in values]).T
        axes.bar(places + shift, mean, 0.38, color=colour, alpha=0.8, label=what)
        above = np.nan_to_num(high - mean)
        below = np.minimum(above, mean)  # an error is never below zero
        axes.errorbar(places + shift, mean, [below, above], fmt="none", ecolor="black", capsize=3, lw=1)
    if published is not None:
        axes.plot(places + 0.2, [published[network.name] for network in networks], "kx", label="test, He 2015")
    axes.set_xticks(places, [network.name for network in networks])
    label(axes, "errors at the end of training", "", "error, %")


def summary(report: Report) -> list[str]:
    """Describes the result in lines of text."""
    found = report.found
    lines = []
    for network in (*found.plain, *found.residual):
        published = f"; He 2015 about {report.published[network.name]:g} %" if report.published else ""
        lines.append(
            f"{network.name} at its best learning rate {network.rate:g}: "
            f"training loss {network.final_loss.mean():.4f}, training error {network.final_error.mean():.1%}, "
            f"test error {network.test_error.mean():.1%}{published}"
        )
    for name, gap in (("plain", found.plain_gap), ("residual", found.residual_gap)):
        lines.append(
            f"{name}, deeper minus shallow: training loss {gap.loss:+.4f}, training error {gap.error:+.1%}, "
            f"test error {gap.test_error:+.1%}"
        )
        lines.append(
            f"{name}, deeper over shallow, gradient at the first layer: {gap.first_gradient:.2f} at the first step; "
            f"in the second half {gap.late_gradient:.2f}, free of the weights' scale {gap.late_scaled:.2f}"
        )
    lines.append(f"residual difference of loss less a tenth of the plain one: {found.excess:+.4f}")
    return lines
