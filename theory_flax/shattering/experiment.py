"""Shattered gradients of the fully connected networks of Balduzzi 2017, and of this project's along real images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from common_flax.palette import AMBER, BLUE, GREEN, ORANGE, PINK, SKY
from theory_flax.base.options import Options
from theory_flax.base.unroll import by_blocks
from theory_flax.experiments.networks import dataset_of, images_of, of_run
from theory_flax.shattering.claim import autocorrelation, line, noise, shattering
from theory_flax.shattering.fully_connected import (
    FullyConnected,
    GradientCorrelation,
    gradient_correlations,
    line_gradients,
)
from theory_flax.shattering.laws import Fit, fit_base, fit_power, theorem_correlation, wide_correlation
from training_flax import Dataset, build_model

QUICK = ("plain20", "resnet20", "plain56", "resnet56", "densenet_bc_40_12")
WHOLE = (*QUICK, "resnet20_v2", "resnet56_v2", "plain110", "resnet110", "densenet_bc_100_12")
POINTS, LAGS = 256, 30
RANGE = 2.0  # the line of 1-D inputs is [-2, 2]

# Networks whose correlations are measured, with their colour and the law to fit. The theorems assume that two inputs
# activate a unit at once in a quarter of the cases, which without BatchNorm is true of centred networks alone.
LAWS = {
    "plain, centred": (FullyConnected("plain", "centre"), ORANGE, fit_base),
    "residual, centred": (FullyConnected("residual", "centre"), BLUE, fit_base),
    "residual, BatchNorm": (FullyConnected("residual", "batch"), GREEN, fit_power),
    "plain": (FullyConnected("plain"), AMBER, fit_base),
    "residual": (FullyConnected("residual"), SKY, fit_base),
}
# Depths of these networks, quick and thorough.
DEPTHS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "plain, centred": ((1, 2, 4, 8), (1, 2, 3, 4, 5, 6, 7, 8)),
    "residual, centred": ((2, 4, 8, 16), (1, 2, 3, 4, 6, 8, 10, 12, 14, 16)),
    "residual, BatchNorm": ((1, 2, 4, 8, 16, 32), (1, 2, 4, 8, 16, 24, 32, 50, 64, 100)),
    "plain": ((1, 2, 4, 8), (1, 2, 4, 8, 16, 32, 50)),
    "residual": ((1, 2, 4, 8, 16), (1, 2, 4, 8, 16, 32, 50)),
}
LINES = {
    "plain": (FullyConnected("plain"), AMBER),
    "plain, BatchNorm": (FullyConnected("plain", "batch"), ORANGE),
    "residual": (FullyConnected("residual"), SKY),
    "residual, BatchNorm": (FullyConnected("residual", "batch"), GREEN),
    "residual β = .1, BatchNorm": (FullyConnected("residual", "batch", beta=0.1), BLUE),
    "dense, BatchNorm": (FullyConnected("dense", "batch"), PINK),
}


class Sizes(NamedTuple):
    """The sizes of the experiment."""

    width: int  # of centred networks; raises correlations by about 40 / width, which must be less than their error
    other_width: int  # of networks that are not centred
    seeds: int
    inputs: int  # of each network, of which all pairs count
    depths: dict[str, tuple[int, ...]]  # for each of `LAWS`
    line_depths: tuple[int, ...]  # for 1-D inputs
    line_seeds: int
    points: int  # of the line between two images
    networks: int  # each with its own pair of images


def sizes_of(options: Options) -> Sizes:
    """The claim's own sizes, with the number of seeds in the options."""
    few, many = ({name: depths[i] for name, depths in DEPTHS.items()} for i in (0, 1))
    given = options.seeds
    if options.quick:
        return Sizes(1024, 256, given or 10, 256, few, (1, 8, 16, 50), given or 16, 128, given or 4)
    return Sizes(2048, 1024, given or 32, 512, many, (1, 2, 4, 8, 16, 24, 50, 100), given or 100, POINTS, given or 16)


@dataclass(frozen=True)
class Law:
    """Correlations by depth.

    Attributes:
        name, network: the measured network.
        correlations: at each depth.
        theorem, wide: (depths,) the correlations by Balduzzi's theorem, and at infinite width.
        fit: b of b^L; for networks with BatchNorm p of L^p.
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
        name: of the network or noise.
        mean, error: (…, lags + 1), and the standard error over seeds.
        example: (…, points) the first seed's gradients; None if they are images.
    """

    name: str
    mean: np.ndarray
    error: np.ndarray
    example: np.ndarray | None = None


@dataclass(frozen=True)
class Report:
    """The result of the experiment.

    Attributes:
        laws: correlations at independent inputs.
        depths: of the fully connected networks in `lines`, the first axis of each.
        lines: along 1-D inputs.
        white, brown: noise of as many points.
        points: of the line between two images.
        networks: along lines between images; a trained network has its running statistics, a new one those of the line.
    """

    laws: tuple[Law, ...]
    depths: tuple[int, ...]
    lines: tuple[Curve, ...]
    white: Curve
    brown: Curve
    points: int
    networks: tuple[Curve, ...]


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Measures correlations by depth, and gradients on a line of numbers and on lines between images."""
    dataset, sizes = dataset_of(options), sizes_of(options)
    models: list[tuple[str, nn.Module, Any]] = [
        (arch, build_model(arch, num_classes=len(dataset.class_names)), None)
        for arch in options.arch or (() if options.run else QUICK if options.quick else WHOLE)
    ]
    if options.run is not None:
        run = of_run(options.run, options.which)
        models += [(f"{run.name}, initial", run.model, None), (f"{run.name}, trained", run.model, run.variables)]
    laws = []
    for name, (network, _, fit) in LAWS.items():
        laws.append(_law(name, network, fit, sizes))
        last = laws[-1].correlations[-1]
        say(f"{name}: correlation {last.value:.4f} ± {last.error:.4f} at {last.depth} layers")

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
    noises = _curve("white noise", white), _curve("brown noise", brown)
    return Report(tuple(laws), sizes.line_depths, tuple(lines), *noises, sizes.points, tuple(networks))


def _law(name: str, network: FullyConnected, fit: Any, sizes: Sizes) -> Law:
    width = sizes.width if network.norm == "centre" else sizes.other_width
    network, depths = replace(network, width=width), sizes.depths[name]
    correlations = gradient_correlations(network, depths, seeds=sizes.seeds, inputs=sizes.inputs)
    theorem, wide = (
        np.array([law(network, depth) for depth in depths]) for law in (theorem_correlation, wide_correlation)
    )
    # The power law holds at large depths only.
    fitted = [at_depth for at_depth in correlations if at_depth.depth > 1 or fit is fit_base]
    return Law(name, network, correlations, theorem, wide, fit(fitted))


def _curve(name: str, gradients: np.ndarray) -> Curve:
    """The autocorrelations of gradients (…, seeds, points)."""
    rows = np.apply_along_axis(autocorrelation, -1, gradients, LAGS)
    return _over_seeds(name, rows, gradients[..., 0, :])


def _over_seeds(name: str, rows: np.ndarray, example: np.ndarray | None = None) -> Curve:
    seeds = rows.shape[-2]
    error = rows.std(-2, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.full_like(rows[..., 0, :], np.nan)
    return Curve(name, rows.mean(-2), error, example)


def _between_images(name: str, model: nn.Module, variables: Any, dataset: Dataset, sizes: Sizes) -> Curve:
    """Measures a network between pairs of images; without variables, a new network at initialisation for each pair."""
    images, _ = images_of(dataset, 2 * sizes.networks)

    def autocorrelation_of(seed: int) -> np.ndarray:
        # Not jitted as a whole: the initialisation of a deep network in one program takes very long to compile.
        of_seed = model.init(jax.random.key(seed), images[:1], train=False) if variables is None else variables
        direction = jax.random.normal(jax.random.key(seed), (len(dataset.class_names),))
        logits_of = by_blocks(model, of_seed, train=variables is None)
        between = line(images[2 * seed], images[2 * seed + 1], sizes.points)
        return shattering(lambda x: logits_of(x) @ direction, between, lags=LAGS, batched=True).autocorrelation

    return _over_seeds(name, np.array([autocorrelation_of(seed) for seed in range(sizes.networks)]))
