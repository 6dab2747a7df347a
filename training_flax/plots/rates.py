"""The figure of a learning-rate range test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common_flax.files import save_figure
from common_flax.palette import BLUE, ORANGE
from common_flax.terminal import as_label


def draw_rates(
    path: Path,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float | None,
    title: str,
) -> None:
    """Draws the loss of each step against its learning rate, the smoothed loss, and the suggested rate.

    Args:
        path: the file to write.
        rates, losses, smoothed: a number for each step; losses may be infinite or NaN.
        suggestion: the suggested learning rate, or None.
        title: the title.
    """
    from matplotlib.figure import Figure  # slow to import, and only pictures need matplotlib

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=BLUE, lw=0.8, alpha=0.45, label="loss of a step")
    axes.plot(rates, smoothed, color=BLUE, lw=2, label="smoothed")
    finite = np.asarray(smoothed)[np.isfinite(smoothed)]
    if len(finite):
        low, first = float(finite.min()), float(finite[0])
        axes.set_ylim(low - 0.15 * max(first - low, 0.1 * first), first + 0.6 * max(first - low, 0.1 * first))
    if suggestion is not None:
        axes.axvline(suggestion, color=ORANGE, lw=2, ls="--", label=f"suggested: {suggestion:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="cross-entropy (nats)", title=as_label(title))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
