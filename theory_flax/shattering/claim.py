"""Shattered gradients: in deep plain networks ∂f/∂x is white noise along a line of inputs x (Balduzzi 2017).

In shallow networks, and in deep ones with shortcuts, gradients at neighbouring inputs resemble each other, as the
values of brown noise do. The autocorrelation function along the line tells the two apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Shattering:
    """The gradients along a line of inputs, and their similarity by distance.

    Attributes:
        gradients: (points, …) ∂f/∂x at each input, of its shape.
        autocorrelation: (lags + 1,) float64, at lags 0, 1, 2, … points; see `autocorrelation`.
        cosines: (lags + 1,) float64, the mean cosine between the gradients at two inputs that far apart; the mean
            gradient is not subtracted.
        band: 1.96 / √points: for white noise in one dimension, 95 % of autocorrelations are between −band and band.
    """

    gradients: np.ndarray
    autocorrelation: np.ndarray
    cosines: np.ndarray
    band: float


def shattering(
    f: Callable[[jax.Array], jax.Array], inputs: jax.Array, *, lags: int = 30, batched: bool = False
) -> Shattering:
    """Measures the similarity of a function's gradients along a line of inputs.

    Args:
        f: one input to a scalar, pure and differentiable by JAX.
        inputs: (points, …), evenly spaced; see `line`.
        lags: the largest distance, in points.
        batched: f takes all inputs at once and returns (points,) scalars, whose sum is differentiated. With BatchNorm
            in training mode f is one function of the whole batch, and the gradient goes through the statistics too.

    Raises:
        ValueError: there are not more than `lags` + 1 points, or f does not return a scalar for an input.
    """
    inputs = jnp.asarray(inputs)
    check_lags(len(inputs), lags)
    all_of = f if batched else jax.vmap(f)
    shape = jax.eval_shape(all_of, inputs).shape
    if shape != (len(inputs),):
        raise ValueError(f"f must give a scalar for an input: {(len(inputs),)} in all; it gives {shape}")
    gradients = np.asarray(jax.grad(lambda inputs: all_of(inputs).sum())(inputs))
    return Shattering(
        gradients, autocorrelation(gradients, lags), _cosines(gradients, lags), white_noise_band(len(inputs))
    )


def autocorrelation(gradients: np.ndarray, lags: int) -> np.ndarray:
    """The autocorrelation function along the first axis, in float64.

    R_k = Σ_i ⟨g_i − ḡ, g_{i+k} − ḡ⟩ / Σ_i ‖g_i − ḡ‖² of g_i = gradients[i], where ḡ is their mean; for numbers this is
    the usual function (Balduzzi 2017, section 2). For constant gradients, whose variance is zero, the result is nan.

    Args:
        gradients: (points, …).
        lags: the largest k.

    Returns:
        (lags + 1,), R_0 = 1.

    Raises:
        ValueError: there are not more than `lags` + 1 points.
    """
    check_lags(len(gradients), lags)
    rows = np.asarray(gradients, np.float64).reshape(len(gradients), -1)
    centred = rows - rows.mean(0)
    # Constant gradients leave a variance of rounding errors, which would look like a signal.
    smallest = (np.finfo(np.asarray(gradients).dtype).eps * np.abs(rows).max()) ** 2 * rows.size
    products = np.array([np.vdot(centred[: len(rows) - k], centred[k:]) for k in range(lags + 1)])
    return products / products[0] if products[0] > smallest else np.full(lags + 1, np.nan)


def _cosines(gradients: np.ndarray, lags: int) -> np.ndarray:
    rows = np.asarray(gradients, np.float64).reshape(len(gradients), -1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return np.array([np.vdot(unit[: len(rows) - k], unit[k:]) / (len(rows) - k) for k in range(lags + 1)])


def white_noise_band(points: int) -> float:
    """The band 1.96 / √points: for white noise R_k is normal, of mean about −1 / points, variance 1 / points."""
    return 1.96 / math.sqrt(points)


def line(start: jax.Array, end: jax.Array, points: int) -> jax.Array:
    """Inputs at equal distances from `start` to `end`, two arrays of one shape: (points, …).

    Raises:
        ValueError: the ends differ in shape, or there are less than two points.
    """
    start, end = jnp.asarray(start), jnp.asarray(end)
    if start.shape != end.shape:
        raise ValueError(f"a line's ends must have one shape; given {start.shape} and {end.shape}")
    if points < 2:
        raise ValueError(f"points must be at least 2; given {points}")
    return jnp.linspace(start, end, points)


def noise(points: int, samples: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """White noise, independent normal numbers, and brown noise, their running sums: each (samples, points)."""
    white = np.random.default_rng(seed).standard_normal((samples, points))
    return white, white.cumsum(1)


def check_lags(points: int, lags: int) -> None:
    """Raises ValueError unless a line is longer than its lags."""
    if not 0 <= lags < points - 1:
        raise ValueError(f"lags must be from 0 to {points - 2} for {points} points; given {lags}")
