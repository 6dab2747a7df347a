"""Shattered gradients: fully connected networks as Balduzzi 2017 has them, and this project's along real images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common_flax.palette import AMBER, BLUE, GREEN, ORANGE, PINK, SKY
from theory_flax.base.options import Options
from theory_flax.base.unroll import by_blocks
from theory_flax.experiments.networks import dataset_of, images_of, of_run
from theory_flax.shattering.claim import Shattering, autocorrelation, line, noise, shattering
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
        say(f"{name}: correlation {with_error(laws[-1].correlations[-1])} at {sizes.depths[name][-1]} layers")

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


def with_error(found: GradientCorrelation) -> str:
    """A correlation and its standard error."""
    return f"{found.value:.4f} ± {found.error:.4f}"


USES = frozenset({"arch", "run", "data", "data_dir", "seeds"})
