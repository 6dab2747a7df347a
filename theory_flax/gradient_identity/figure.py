"""The figure of the claim, and its lines on the terminal."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common_flax.palette import BLACK, BLUE, COLOURS, GREEN, ORANGE
from theory_flax.base.figures import label, new_figure
from theory_flax.gradient_identity.experiment import Error, Report


def draw(report: Report) -> Figure:
    """Draws the error by network, ‖g‖ and ‖Σ‖ from each block on, their cosine, and the paths by length."""
    figure, panels = new_figure("∂L/∂x₁ = ∂L/∂x_L · (1 + Σ ∂h_l/∂x₁), computed on both sides", 2, 2, height=3.9)
    exact, norms, cosines, paths = panels.flat

    names = list(dict.fromkeys(error.network for error in report.errors))
    for dtype, colour, marker in (("float32", BLUE, "o"), ("float64", GREEN, "s")):
        of_type = [(error.error, names.index(error.network)) for error in report.errors if error.dtype == dtype]
        exact.plot(*zip(*of_type, strict=True), marker, color=colour, label=dtype, alpha=0.8)
    misses = [(error.plain_error, names.index(error.network)) for error in report.errors if _misses(error)]
    if misses:
        exact.plot(*zip(*misses, strict=True), "x", color=ORANGE, label="without the ReLUs' masks")
    exact.set_yticks(range(len(names)), names)
    exact.set(xscale="log", xlim=(1e-17, 3), ylim=(len(names) + 0.4, -0.5))  # leaves room for the legend
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
    norms.set_ylim(top=12 * max(profile.total.max() for profile in report.profiles))  # leaves room for the legend
    paths.set_ylim(top=1.5 * max(path.shares.max() for path in report.paths))
    for axes in (norms, cosines, paths):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (cosines, paths):
        axes.axhline(0, color=BLACK, lw=0.8)
    label(norms, f"what shortcuts carry, and the rest ({where(report)})", "block l", "norm", columns=2)
    label(cosines, "cosine between the two", "block l", "cosine")
    label(paths, "paths by how many residuals they pass", "length", "share of ‖∂L/∂x₁‖")
    return figure


def _misses(error: Error) -> bool:
    """True if the identity without masks has more than a rounding error."""
    return error.plain_error is not None and error.plain_error > 1e-3


def where(report: Report) -> str:
    """Names the network, or its dense block, of the profiles and paths."""
    return report.network if report.stage is None else f"{report.network}, block {report.stage + 1}"


def summary(report: Report) -> list[str]:
    """Describes the result in lines of text."""
    lines = []
    for dtype in ("float64", "float32"):
        worst = max((error for error in report.errors if error.dtype == dtype), key=lambda error: error.error)
        lines.append(f"largest error in {dtype}: {worst.error:.1e} ({worst.network}, stage {worst.stage})")
    misses = [error.plain_error for error in report.errors if error.plain_error is not None and _misses(error)]
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
