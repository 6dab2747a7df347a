"""Shattered gradients: fully connected networks as Balduzzi 2017 has them, and this project's along real images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common_flax.palette import AMBER, BLACK, BLUE, GREEN, ORANGE, PINK, SKY
from theory_flax.commands.networks import dataset_of, images_of, of_run
from theory_flax.commands.options import Claim, Options
from theory_flax.figures import label, new_figure
from theory_flax.fully_connected import (
    Fit,
    FullyConnected,
    GradientCorrelation,
    fit_base,
    fit_power,
    gradient_correlations,
    line_gradients,
    theorem_correlation,
    wide_correlation,
)
from theory_flax.shattering import Shattering, autocorrelation, line, noise, shattering, white_noise_band
from theory_flax.unroll import by_blocks
from training_flax import Dataset, build_model

QUICK = ("plain20", "resnet20", "plain56", "resnet56", "densenet_bc_40_12")
WHOLE = (*QUICK, "resnet20_v2", "resnet56_v2", "plain110", "resnet110", "densenet_bc_100_12")
POINTS, LAGS = 256, 30
RANGE = 2.0  # the line of 1-D inputs is [-2, 2]

# What correlations are measured of: the colour, and which law is fitted. The theorems take co-activation for a
# quarter, which centring makes true of networks that are not normalised otherwise.
LAWS = {
    "plain, centred": (FullyConnected("plain", "centre"), ORANGE, fit_base),
    "residual, centred": (FullyConnected("residual", "centre"), BLUE, fit_base),
    "residual, BatchNorm": (FullyConnected("residual", "batch"), GREEN, fit_power),
    "plain": (FullyConnected("plain"), AMBER, fit_base),
    "residual": (FullyConnected("residual"), SKY, fit_base),
}
LINES = {
    "plain": (FullyConnected("plain"), AMBER),
    "plain, BatchNorm": (FullyConnected("plain", "batch"), ORANGE),
    "residual": (FullyConnected("residual"), SKY),
    "residual, BatchNorm": (FullyConnected("residual", "batch"), GREEN),
    "residual β = .1, BatchNorm": (FullyConnected("residual", "batch", beta=0.1), BLUE),
    "dense, BatchNorm": (FullyConnected("dense", "batch"), PINK),
}
FAMILIES = {"plain": (AMBER, ORANGE), "resnet": (SKY, BLUE), "densenet": (PINK,), "": (GREEN, BLACK)}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        width, seeds: of centred networks: what finite width adds to their correlations, about 40 / width at the
            largest depths, is to be smaller than the error over seeds.
        other_width: of the others.
        inputs: of each network, all pairs of which count.
        depths: for each of `LAWS`.
        line_depths, line_seeds: of 1-D inputs.
        points, networks: of the line between two images, and how many networks, each with its own pair.
    """

    width: int
    other_width: int
    seeds: int
    inputs: int
    depths: dict[str, tuple[int, ...]]
    line_depths: tuple[int, ...]
    line_seeds: int
    points: int
    networks: int


def sizes_of(options: Options) -> Sizes:
    """The claim's own, with as many seeds as the options say."""
    few: dict[str, tuple[int, ...]] = {
        "plain, centred": (1, 2, 4, 8),
        "residual, centred": (2, 4, 8, 16),
        "residual, BatchNorm": (1, 2, 4, 8, 16, 32),
        "plain": (1, 2, 4, 8),
        "residual": (1, 2, 4, 8, 16),
    }
    many: dict[str, tuple[int, ...]] = {
        "plain, centred": (1, 2, 3, 4, 5, 6, 7, 8),
        "residual, centred": (1, 2, 3, 4, 6, 8, 10, 12, 14, 16),
        "residual, BatchNorm": (1, 2, 4, 8, 16, 24, 32, 50, 64, 100),
        "plain": (1, 2, 4, 8, 16, 32, 50),
        "residual": (1, 2, 4, 8, 16, 32, 50),
    }
    given = options.seeds
    if options.quick:
        return Sizes(1024, 256, given or 10, 256, few, (1, 8, 16, 50), given or 16, 128, given or 4)
    return Sizes(2048, 1024, given or 32, 512, many, (1, 2, 4, 8, 16, 24, 50, 100), given or 100, POINTS, given or 16)


@dataclass(frozen=True)
class Law:
    """Correlations by depth.

    Attributes:
        name, network: of what.
        correlations: at each depth.
        theorem, wide: (depths,) what Balduzzi's theorem says, and what infinite width does.
        fit: b of b^L, or p of L^p of networks with BatchNorm.
    """

    name: str
    network: FullyConnected
    correlations: tuple[GradientCorrelation, ...]
    theorem: np.ndarray
    wide: np.ndarray
    fit: Fit


@dataclass(frozen=True)
class Curve:
    """Autocorrelation functions, over seeds.

    Attributes:
        name: of what.
        mean, error: (…, lags + 1), and the standard error over seeds.
        example: (…, points) of the first seed's gradients; None where they are images.
    """

    name: str
    mean: np.ndarray
    error: np.ndarray
    example: np.ndarray | None = None


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        laws: correlations at independent inputs.
        depths: of the fully connected networks in `lines`, the first axis of each.
        lines: of 1-D inputs.
        white, brown: noise of as many points.
        points: of the line between two images.
        networks: of such lines; of a run's network, with running statistics, else as initialised, with the line's.
    """

    laws: tuple[Law, ...]
    depths: tuple[int, ...]
    lines: tuple[Curve, ...]
    white: Curve
    brown: Curve
    points: int
    networks: tuple[Curve, ...]


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Correlations by depth, gradients on a line of numbers, and on lines between images."""
    dataset, sizes = dataset_of(options), sizes_of(options)
    models: list[tuple[str, nn.Module, Any]] = [
        (arch, build_model(arch, num_classes=len(dataset.class_names)), None)
        for arch in options.arch or (() if options.run else QUICK if options.quick else WHOLE)
    ]
    if options.run is not None:
        run = of_run(options.run)
        models += [(f"{run.name}, initial", run.model, None), (f"{run.name}, trained", run.model, run.variables)]
    laws = []
    for name, (network, _, fit) in LAWS.items():
        laws.append(_law(name, network, fit, sizes))
        say(f"{name}: correlation {_with_error(laws[-1].correlations[-1])} at {sizes.depths[name][-1]} layers")

    inputs = np.linspace(-RANGE, RANGE, POINTS)
    lines = []
    for name, (network, _) in LINES.items():
        gradients = line_gradients(network, sizes.line_depths, inputs, seeds=sizes.line_seeds)
        lines.append(_curve(name, gradients))
        say(f"{name}, {sizes.line_depths[-1]} layers: lag-1 autocorrelation {lines[-1].mean[-1, 1]:.3f}")
    white, brown = noise(POINTS, max(sizes.line_seeds, 100))

    networks = []
    for name, model, variables in models:
        networks.append(_between_images(name, model, variables, dataset, sizes))
        say(f"{name}: lag-1 autocorrelation {networks[-1].mean[1]:.3f}")
    return Report(
        tuple(laws),
        sizes.line_depths,
        tuple(lines),
        _curve("white noise", white),
        _curve("brown noise", brown),
        sizes.points,
        tuple(networks),
    )


def _law(name: str, network: FullyConnected, fit: Any, sizes: Sizes) -> Law:
    width = sizes.width if network.norm == "centre" else sizes.other_width
    network = FullyConnected(network.kind, network.norm, network.beta, width)
    depths = sizes.depths[name]
    correlations = gradient_correlations(network, depths, seeds=sizes.seeds, inputs=sizes.inputs)
    theorem, wide = (
        np.array([law(network, depth) for depth in depths]) for law in (theorem_correlation, wide_correlation)
    )
    # A power is of large depths.
    fitted = [found for found in correlations if found.depth > 1 or fit is fit_base]
    return Law(name, network, correlations, theorem, wide, fit(fitted))


def _curve(name: str, gradients: np.ndarray) -> Curve:
    """Of gradients (…, seeds, points)."""
    rows = gradients.reshape(-1, gradients.shape[-1])
    found = np.array([autocorrelation(row, LAGS) for row in rows]).reshape(*gradients.shape[:-1], LAGS + 1)
    return _over_seeds(name, found, gradients[..., 0, :])


def _over_seeds(name: str, found: np.ndarray, example: np.ndarray | None = None) -> Curve:
    seeds = found.shape[-2]
    error = found.std(-2, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.full_like(found[..., 0, :], np.nan)
    return Curve(name, found.mean(-2), error, example)


def _between_images(name: str, model: nn.Module, variables: Any, dataset: Dataset, sizes: Sizes) -> Curve:
    """A network's gradients between pairs of images; without variables, another as initialised for each pair."""
    images, _ = images_of(dataset, 2 * sizes.networks)
    found: list[Shattering] = []
    for seed in range(sizes.networks):
        # Initialised layer by layer: as one program a deep network takes longer to compile than all the rest.
        of_seed = model.init(jax.random.key(seed), images[:1], train=False) if variables is None else variables
        direction = jax.random.normal(jax.random.key(seed), (len(dataset.class_names),))
        logits_of = by_blocks(model, of_seed, train=variables is None)
        between = line(images[2 * seed], images[2 * seed + 1], sizes.points)
        found.append(shattering(_projected(logits_of, direction), between, lags=LAGS, batched=True))
    return _over_seeds(name, np.array([one.autocorrelation for one in found]))


def _projected(logits_of: Callable[[jax.Array], jax.Array], direction: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return lambda images: jnp.asarray(logits_of(images)) @ direction


def draw(report: Report) -> Figure:
    """Gradients beside noise, autocorrelations with and without shortcuts, correlations by depth and the laws."""
    title = "With depth, gradients of plain networks become white noise"
    figure, panels = new_figure(title, 2, 2, width=13.0)
    traces, lines, laws, networks = panels.flat
    _draw_traces(traces, report)

    deepest = report.depths.index(50)
    lags = np.arange(LAGS + 1)
    for curve in report.lines:
        _draw_curve(lines, lags, curve.mean[deepest], curve.error[deepest], LINES[curve.name][1], curve.name)
    lines.plot(lags, report.brown.mean, ":", color=BLACK, label="brown noise")
    _draw_band(lines, POINTS)
    lines.set_ylim(-0.25, 1.02)
    _label(lines, "autocorrelation along [−2, 2], 50 layers", f"lag (of {POINTS} points)", "autocorrelation")

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
    _draw_band(networks, report.points)
    networks.set_ylim(-0.25, 1.02)
    _label(networks, "networks for images, between two of them", f"lag (of {report.points} points)", "autocorrelation")
    return figure


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    """As `label`, with the legend beside the panel: the curves leave no room inside."""
    label(axes, title, x, y, legend=False)
    axes.legend(fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_traces(axes: Axes, report: Report) -> None:
    """Gradients, each to its own scale, one above the other."""
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


def _draw_band(axes: Axes, points: int) -> None:
    band = white_noise_band(points)
    axes.axhspan(-band, band, color=BLACK, alpha=0.1, lw=0, label="white noise, 95 %")


def _with_error(found: GradientCorrelation) -> str:
    return f"{found.value:.4f} ± {found.error:.4f}"


def summary(report: Report) -> list[str]:
    """What was found, in lines."""
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
        by_depth = ", ".join(
            f"{mean:.3f} ({depth})" for depth, mean in zip(report.depths, curve.mean[:, 1], strict=True)
        )
        lines.append(f"{curve.name}: lag-1 autocorrelation by layers {by_depth}")
    plain = next(curve for curve in report.lines if curve.name == "plain, BatchNorm")
    outside = np.abs(plain.mean[deepest, 1:11]).max()
    lines.append(
        f"plain with BatchNorm, 50 layers: at lags 1 to 10 at most {outside:.3f} from 0; "
        f"white noise stays within {white_noise_band(POINTS):.3f}"
    )
    lines += [f"{curve.name}: lag-1 autocorrelation {_lag_1(curve)} between images" for curve in report.networks]
    return lines


def _lag_1(curve: Curve) -> str:
    return f"{curve.mean[1]:.3f} ± {curve.error[1]:.3f}"


def _largest_miss(correlations: Sequence[GradientCorrelation], law: np.ndarray) -> float:
    return max(abs(found.value - says) / found.error for found, says in zip(correlations, law, strict=True))


CLAIM = Claim(measure, draw, summary, frozenset({"arch", "run", "data", "data_dir", "seeds"}))
