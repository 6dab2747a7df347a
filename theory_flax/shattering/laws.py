"""Laws of the correlation of gradients (Balduzzi 2017, theorems 1 to 3), and fits to what is measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from theory_flax.shattering.fully_connected import FullyConnected, GradientCorrelation


def theorem_correlation(network: FullyConnected, depth: int) -> float:
    """What theorems 1 to 3 of Balduzzi 2017 say of the correlation at `depth` layers.

    Plain: 2^-L. Residual: (3/4)^L, with β: ((1 + β²/2) / (1 + β²))^L. Residual with BatchNorm, by which the variance
    of x_l is 1 + β² l, and a branch's gradient is divided by it: Π (1 + β²/2v) / (1 + β²/v), which goes as
    1 / (β √L).

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
    """What a network of infinite width has, at independent inputs, without the theorems' assumptions.

    Without a norm, inputs grow alike from layer to layer, and units are active at both more often than in a quarter of
    cases: two inputs at an angle θ activate a unit at once in (π − θ) / 2π of them, and the ReLU turns cos θ into
    (sin θ + (π − θ) cos θ) / π (Cho and Saul 2009, equation 6). A norm takes the inputs' common part away in each
    layer, and a quarter it is; but as it takes away the ReLU's mean, a layer of a network with BatchNorm adds to the
    variance 1 − 1/π, where theorem 3 has 1.

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
    """b of correlation = b^L: least squares of the logarithm, weighted by its variance over seeds.

    Raises:
        ValueError: a correlation is not positive.
    """
    depths, logs, weights = _logarithms(correlations)
    information = weights @ depths**2
    return Fit(*np.exp(_interval(logs @ (weights * depths) / information, information)).tolist())


def fit_power(correlations: Sequence[GradientCorrelation]) -> Fit:
    """p of correlation ∝ L^p: least squares of the logarithm, weighted by its variance over seeds.

    Raises:
        ValueError: a correlation is not positive, or depths are all the same.
    """
    depths, logs, weights = _logarithms(correlations)
    if len(np.unique(depths)) < 2:
        raise ValueError(f"a power of depth needs two depths or more; given {np.unique(depths).tolist()}")
    x = np.log(depths)
    x -= weights @ x / weights.sum()
    information = weights @ x**2
    return Fit(*_interval(logs @ (weights * x) / information, information).tolist())


def _logarithms(correlations: Sequence[GradientCorrelation]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depths, log correlations and one over their variances."""
    values = np.array([c.value for c in correlations])
    if (values <= 0).any():
        raise ValueError(f"a law is fitted to positive correlations; given {values.min():.2g}: more seeds are needed")
    errors = np.array([c.error for c in correlations])
    return np.array([float(c.depth) for c in correlations]), np.log(values), (values / errors) ** 2


def _interval(value: float, information: float) -> np.ndarray:
    return value + np.array([0.0, -1.96, 1.96]) / np.sqrt(information)
