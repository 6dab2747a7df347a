"""Means over seeds, with their 95 % intervals by Student's t."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval, which is nan for one seed; f"{estimate:.2f}" is "mean [low, high]"."""

    mean: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of (seeds,) values, and its interval."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Estimate(mean, np.nan, np.nan)
    half = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - half, mean + half)


def geometric(values: Sequence[float] | np.ndarray) -> Estimate:
    """The geometric mean of (seeds,) positive values, and its interval."""
    return Estimate(*np.exp(estimate(np.log(values))).tolist())
