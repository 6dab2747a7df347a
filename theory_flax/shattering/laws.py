"""Laws of the correlation of gradients (Balduzzi 2017, theorems 1 to 3), and their fits to measured correlations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from theory_flax.shattering.fully_connected import FullyConnected, GradientCorrelation


def theorem_correlation(network: FullyConnected, depth: int) -> float:
    """The correlation at `depth` layers by theorems 1 to 3 of Balduzzi 2017.

    Plain: 2^-L. Residual: (3/4)^L, with β: ((1 + β²/2) / (1 + β²))^L. Residual with BatchNorm:
    Π (1 + β²/2v) / (1 + β²/v), which falls as 1 / (β √L); v = 1 + β² l is the variance of x_l, and BatchNorm divides
    the gradient of a branch by it.

    Raises:
        ValueError: there is no theorem for dense networks.
    """
    _has_law(network)
    if network.kind == "plain":
        return 0.5**depth
    square = network.beta**2
    variances = 1 + square * np.arange(depth) if network.norm == "batch" else np.ones(depth)
    return float(np.prod((1 + square / (2 * variances)) / (1 + square / variances)))


def wide_correlation(network: FullyConnected, depth: int) -> float:
    """The correlation of a network of infinite width, at independent inputs, without the theorems' assumptions.

    Without a norm, inputs become more alike from layer to layer, and units are active at both in more than a quarter of
    the cases: two inputs at an angle θ activate a unit at once in a share (π − θ) / 2π of the cases, and the ReLU turns
    cos θ into (sin θ + (π − θ) cos θ) / π (Cho and Saul 2009, equation 6). A norm removes the inputs' common part in
    each layer, so that the share stays a quarter. But it removes the ReLU's mean too, so that a layer of a network with
    BatchNorm adds 1 − 1/π to the variance, where theorem 3 adds 1.

    Raises:
        ValueError: the network is dense.
    """
    _has_law(network)
    skip, square = float(network.kind == "residual"), network.beta**2
    correlation, variance, cosine = 1.0, 1.0, 0.0
    for _ in range(depth):
        angle = math.acos(cosine)
        gain = square / variance if network.norm == "batch" else square
        correlation *= (skip + gain * (1 - angle / math.pi)) / (skip + gain)
        added = square * (1 if network.norm == "batch" else variance)
        if network.norm is None:
            rectified = (math.sin(angle) + (math.pi - angle) * cosine) / math.pi
            cosine = min(1.0, (skip * variance * cosine + added * rectified) / (skip * variance + added))
        else:
            added *= 1 - 1 / math.pi
        variance = skip * variance + added
    return correlation


def _has_law(network: FullyConnected) -> None:
    if network.kind == "dense":
        raise ValueError("no law is known for kind 'dense'; plain and residual networks have one")


@dataclass(frozen=True)
class Fit:
    """A number fitted to correlations at several depths, with its 95 % interval over seeds."""

    value: float
    low: float
    high: float


def fit_base(correlations: Sequence[GradientCorrelation]) -> Fit:
    """Fits b of correlation = b^L: least squares of the logarithm, weighted by its variance over seeds.

    Raises:
        ValueError: a correlation is not positive.
    """
    return Fit(*np.exp(_slope(*_logarithms(correlations))).tolist())


def fit_power(correlations: Sequence[GradientCorrelation]) -> Fit:
    """Fits p of correlation ∝ L^p: least squares of the logarithm, weighted by its variance over seeds.

    Raises:
        ValueError: a correlation is not positive, or depths are all the same.
    """
    depths, logs, weights = _logarithms(correlations)
    if len(np.unique(depths)) < 2:
        raise ValueError(f"a power of depth needs two depths or more; given {np.unique(depths).tolist()}")
    x = np.log(depths)
    x -= weights @ x / weights.sum()
    return Fit(*_slope(x, logs, weights).tolist())


def _logarithms(correlations: Sequence[GradientCorrelation]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns depths, log correlations, and one over the variances of these."""
    values = np.array([c.value for c in correlations])
    if (values <= 0).any():
        raise ValueError(f"a law is fitted to positive correlations; given {values.min():.2g}: more seeds are needed")
    errors = np.array([c.error for c in correlations])
    return np.array([float(c.depth) for c in correlations]), np.log(values), (values / errors) ** 2


def _slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The slope of y over x by weighted least squares, and its 95 % interval: (3,)."""
    information = weights @ x**2
    return y @ (weights * x) / information + np.array([0.0, -1.96, 1.96]) / np.sqrt(information)
