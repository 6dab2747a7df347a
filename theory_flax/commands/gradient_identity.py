"""The gradient identity on networks of both families, at initialisation and while one of them is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common_flax.palette import BLACK, BLUE, COLOURS, GREEN, ORANGE
from theory_flax.commands.networks import Network, dataset_of, fresh, images_of, of_run
from theory_flax.commands.options import Claim, Options
from theory_flax.commands.training import train
from theory_flax.figures import label, new_figure
from theory_flax.gradient_identity import (
    GradientProfile,
    PathLengths,
    gradient_identity,
    gradient_profile,
    path_lengths,
)
from theory_flax.unroll import check
from training_flax import build_model

QUICK = ("resnet20_v2", "resnet20", "densenet_bc_40_12")
WHOLE = ("resnet110_v2", "resnet56_v2", "resnet110", "resnet50_v2", "densenet_bc_40_12", "densenet121")
BATCH = 8


@dataclass(frozen=True)
class Error:
    """How exact the identity is in one stage of a network.

    Attributes:
        network, stage, dtype: of what; BatchNorm takes the statistics of the batch.
        error: ‖total − identity − Σ residuals‖ / ‖total‖.
        plain_error: the same without the ReLUs' masks, of post-activation stages.
        identity_share: what the "1" contributes to ‖∂L/∂x_1‖, as a share.
    """

    network: str
    stage: int
    dtype: str
    error: float
    plain_error: float | None
    identity_share: float


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        errors: of each network, stage and type.
        network, stage: where the profiles and paths below are from; None is the whole network.
        steps: of training, at which they were taken; of a run, its last alone.
        profiles: ‖g‖, ‖Σ‖ and the cosine between them from each block on.
        paths: the gradient as a sum over paths, by their length.
    """

    errors: tuple[Error, ...]
    network: str
    stage: int | None
    steps: tuple[int, ...]
    profiles: tuple[GradientProfile, ...]
    paths: tuple[PathLengths, ...]


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """The identity's error in each network, and the gradient's parts along the training of the first of them."""
    archs = () if options.run is not None else options.arch or (QUICK if options.quick else WHOLE)
    for arch in archs:  # what has no shortcuts is refused before its variables are drawn
        check(build_model(arch), 0, train=True)
    dataset = dataset_of(options)
    images, labels = images_of(dataset, BATCH)
    networks = [of_run(options.run)] if options.run is not None else [fresh(arch, dataset) for arch in archs]
    errors: list[Error] = []
    for network in networks:
        for stage in range(stages_of(network.model)):
            found = [_error(network, images, labels, stage, dtype) for dtype in ("float32", "float64")]
            errors += found
            say(f"{network.name} stage {stage}: error {found[0].error:.1e} in float32, {found[1].error:.1e} in float64")

    first = networks[0]
    sizes = getattr(first.model, "block_sizes", None)
    shown = int(np.argmax(sizes)) if sizes else None  # of a ResNet, all blocks
    steps, variables = [0], [first.variables]
    if options.run is None:
        steps, variables = [], []
        total, every = (100, 50) if options.quick else (2000, 500)
        all_images, all_labels = images_of(dataset, len(dataset.train.labels))
        for moment in train(first.model, all_images, all_labels, steps=total, every=every):
            steps.append(moment.step)
            variables.append(jax.device_get(moment.variables))
            if moment.metrics is not None:
                say(f"{first.name} step {moment.step} of {total}: loss {moment.metrics.loss[-25:].mean():.4f}")
    profiles, paths = [], []
    for at in variables:
        profiles.append(gradient_profile(first.model, at, images, labels, stage=shown, train=True))
        paths.append(path_lengths(first.model, at, images, labels, stage=shown, train=True))
    return Report(tuple(errors), first.name, shown, tuple(steps), tuple(profiles), tuple(paths))


def stages_of(model: nn.Module) -> int:
    """How many stages, or dense blocks, a network has."""
    sizes: Any = getattr(model, "stage_sizes", None) or getattr(model, "block_sizes", ())
    return len(sizes) or 1  # of a run's network without shortcuts the first is asked for, and refused by name


def _error(network: Network, images: jax.Array, labels: jax.Array, stage: int, dtype: str) -> Error:
    with jax.enable_x64(dtype == "float64"):
        variables = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), network.variables)
        model = network.model.clone(dtype=None)
        images = jnp.asarray(np.asarray(images), dtype)
        found = gradient_identity(model, variables, images, jnp.asarray(np.asarray(labels)), stage=stage, train=True)
    return Error(network.name, stage, dtype, found.relative_error, found.plain_error, found.identity_share)


def draw(report: Report) -> Figure:
    """The error by network, ‖g‖ and ‖Σ‖ from each block on, their cosine, and the paths by length."""
    figure, panels = new_figure("∂L/∂x₁ = ∂L/∂x_L · (1 + Σ ∂h_l/∂x₁), computed on both sides", 2, 2, height=3.9)
    exact, norms, cosines, paths = panels.flat

    names = list(dict.fromkeys(error.network for error in report.errors))
    for dtype, colour, marker in (("float32", BLUE, "o"), ("float64", GREEN, "s")):
        of_type = [error for error in report.errors if error.dtype == dtype]
        exact.plot(
            [error.error for error in of_type],
            [names.index(error.network) for error in of_type],
            marker,
            color=colour,
            label=f"{dtype}",
            alpha=0.8,
        )
    misses = [error for error in report.errors if error.plain_error is not None and error.plain_error > 1e-3]
    if misses:
        exact.plot(
            [error.plain_error for error in misses],
            [names.index(error.network) for error in misses],
            "x",
            color=ORANGE,
            label="without the ReLUs' masks",
        )
    exact.set_yticks(range(len(names)), names)
    exact.set(xscale="log", xlim=(1e-17, 3), ylim=(len(names) + 0.4, -0.5))  # with room for the legend
    for bound in (1e-12, 1e-5):
        exact.axvline(bound, color=BLACK, lw=0.8, ls=":")
    label(exact, "the two sides agree to rounding", "‖left − right‖ / ‖left‖", "")

    for i, (step, profile, path) in enumerate(zip(report.steps, report.profiles, report.paths, strict=True)):
        when, colour = f"step {step}", COLOURS[i % len(COLOURS)]
        blocks = np.arange(1, len(profile.total) + 1)
        norms.plot(blocks, profile.identity, "-", color=colour, label=f"“1”, {when}")
        norms.plot(blocks[:-1], profile.residual[:-1], "--", color=colour, label=f"Σ, {when}")
        cosines.plot(blocks[:-1], profile.cosine[:-1], "o-", ms=3, color=colour, label=when)
        paths.plot(np.arange(len(path.shares)), path.shares, "o-", ms=3, color=colour, label=when)
    binomial = report.paths[0].counts / report.paths[0].counts.sum()
    paths.plot(np.arange(len(binomial)), binomial, ":", color=BLACK, label="share of all paths")
    norms.set_yscale("log")
    norms.set_ylim(top=12 * max(profile.total.max() for profile in report.profiles))  # with room for the legend
    paths.set_ylim(top=1.5 * max(path.shares.max() for path in report.paths))
    for axes in (norms, cosines, paths):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    cosines.axhline(0, color=BLACK, lw=0.8)
    paths.axhline(0, color=BLACK, lw=0.8)
    label(norms, f"what shortcuts carry, and the rest ({where(report)})", "block l", "norm", columns=2)
    label(cosines, "cosine between the two", "block l", "cosine")
    label(paths, "paths by how many residuals they pass", "length", "share of ‖∂L/∂x₁‖")
    return figure


def where(report: Report) -> str:
    """What the profiles and paths are of."""
    return report.network if report.stage is None else f"{report.network}, block {report.stage + 1}"


def summary(report: Report) -> list[str]:
    """What was found, in lines."""
    lines = []
    for dtype in ("float64", "float32"):
        worst = max((error for error in report.errors if error.dtype == dtype), key=lambda error: error.error)
        lines.append(f"largest error in {dtype}: {worst.error:.1e} ({worst.network}, stage {worst.stage})")
    misses = [error.plain_error for error in report.errors if error.plain_error and error.plain_error > 1e-3]
    if misses:
        lines.append(
            f"post-activation: without the ReLUs' masks the identity misses {min(misses):.0%} to {max(misses):.0%}"
        )
    for step, profile, path in zip(report.steps, report.profiles, report.paths, strict=True):
        lines.append(
            f"{where(report)}, step {step}: ‖1⋅g‖ {profile.identity[0]:.2e}, "
            f"‖Σ‖ {profile.residual[0]:.2e}, cosine {profile.cosine[0]:.2f}; "
            f"paths of length 0, 1, 2 carry {', '.join(f'{share:.0%}' for share in path.shares[:3])}"
        )
    return lines


CLAIM = Claim(measure, draw, summary, frozenset({"arch", "run", "data", "data_dir"}))
