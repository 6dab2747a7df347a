"""Errors of a batch's variance by BatchNorm's formulas: `python -m benchmarks.batch_norm`.

Values have deviation 1 and a mean of up to 10,000. Prints a table of Markdown, or puts it into docs: the error of the
variance as a share of it, against float64 on the same values, by ours on accelerators (about the running mean) and on
CPUs (about a value of the batch), by Flax (E[x²] - E[x]²) and by PyTorch's formula (the mean first, then squares of
differences).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isnan
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.command_line import run_benchmark
from benchmarks.page import DOCS, markdown, replace_between
from layers_flax import batch_moments

PAGE = DOCS / "accelerators.md"
VALUES = (64, 16, 16, 8)
MEANS = (0.0, 1.0, 1e2, 1e4)
DTYPES = ("float32", "bfloat16")
# The running mean, as a share of the mean.
RUNNING = {"0": 0.0, "10 % off": 0.9, "exact": 1.0}


@dataclass(frozen=True)
class Options:
    """Measures the errors of formulas for the variance."""

    write: bool = False
    """Put the table into docs/accelerators.md, not on the terminal."""


def by_flax(x: jax.Array) -> jax.Array:
    """The variance of `flax.linen.BatchNorm` by default."""
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    return jnp.maximum(jnp.square(x).mean(axes) - jnp.square(x.mean(axes)), 0)


def by_pytorch(x: jax.Array) -> jax.Array:
    """The variance in two passes."""
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    return jnp.square(x - x.mean(axes)).mean(axes)


def draw(mean: float, dtype: str) -> jax.Array:
    """Returns values of deviation 1 about a mean."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(VALUES) + mean, dtype)


def error(formula: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    """Returns the largest error of a channel's variance, as a share of the variance; NaN of equal values."""
    exact = np.asarray(x, np.float64).var((0, 1, 2))
    if not exact.all():  # around 10,000 numbers in bfloat16 are 64 apart
        return float("nan")
    return float(np.abs(np.asarray(jax.jit(formula)(x), np.float64) / exact - 1).max())


def rows() -> Iterator[tuple[Any, ...]]:
    """Makes a row for each type, mean and running mean."""
    for dtype in DTYPES:
        for mean in MEANS:
            x = draw(mean, dtype)
            others = [error(lambda x: batch_moments(x).variance, x), error(by_flax, x), error(by_pytorch, x)]
            for name, share in RUNNING.items():
                about = jnp.full(VALUES[-1], share * mean, jnp.float32)
                ours = error(lambda x, about=about: batch_moments(x, about=about).variance, x)
                yield dtype, f"{mean:g}", name, *("–" if isnan(each) else f"{each:.1e}" for each in (ours, *others))


def main(options: Options) -> None:
    text = markdown(("type", "mean", "running mean", "about it", "on CPUs", "Flax", "PyTorch"), list(rows()), texts=3)
    if options.write:
        replace_between(PAGE, "<!-- errors by benchmarks.batch_norm -->\n", "<!-- end of errors -->\n", text)
    else:
        print(text)


if __name__ == "__main__":
    run_benchmark("benchmarks.batch_norm", main, Options)
