"""The fully connected networks of Balduzzi 2017, and the correlation of their gradients at two inputs.

All gradients here are ∇_i = ∂f/∂x at x_i, of a network's one output with respect to its input, at initialisation.
Theorems 1 to 3 are about the covariance E⟨∇_i, ∇_j⟩ over weights, divided by the variance E‖∇_i‖².
They assume that each unit is active at half of the inputs, and at two inputs at once in a quarter of the cases: then a
layer of a plain network halves the correlation, and a residual block keeps 3/4 of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common_flax.checks import check_positive, one_of

KINDS = ("plain", "residual", "dense")
NORMS = (None, "centre", "batch")
EPSILON = 1e-5  # as BatchNorm's


class Weights(NamedTuple):
    """The weights of one network of width N and depth L, all independent and normal."""

    stem: jax.Array  # (inputs, N), variance 1 / inputs
    bias: jax.Array  # (N,)
    layers: jax.Array  # (L, N, N), variance 2 / N (He 2015); dense: (L, N + L · growth, growth), 2 / fan-in
    head: jax.Array  # (N,) or (N + L · growth,), variance 1


@dataclass(frozen=True)
class FullyConnected:
    """A network x_0 = W_0 x + b; L layers; f = v · x_L. With ρ(x) = relu(norm(x)) a layer is, by `kind`:

    - "plain": x_l = W_l ρ(x_{l-1});
    - "residual": x_l = x_{l-1} + β W_l ρ(x_{l-1});
    - "dense": x_l = [x_{l-1}, W_l ρ(x_{l-1})], as in Huang 2017.

    Attributes:
        kind: "plain", "residual" or "dense".
        norm: None; "batch": each unit minus its mean, divided by its standard deviation, both over the batch of inputs;
            "centre": minus its mean alone, so that variances are those without BatchNorm.
        beta: β of residual layers.
        width: units, N.
        growth: units that a dense layer adds.

    Mean and deviation are constants when f is differentiated, so that f is a function of one input, as in the
    theorems. A gradient through the mean would remove exactly the common part of the gradients of Σ f.

    Raises:
        ValueError: an attribute's value is not allowed.
    """

    kind: str = "plain"
    norm: str | None = None
    beta: float = 1.0
    width: int = 200
    growth: int = 12

    def __post_init__(self):
        one_of("kind", self.kind, KINDS)
        one_of("norm", self.norm, NORMS)
        check_positive("width", self.width)
        check_positive("growth", self.growth)
        if self.beta != 1 and self.kind != "residual":
            raise ValueError(f"beta scales residuals, which a {self.kind} network has none of; given {self.beta}")

    def init(self, key: jax.Array, inputs: int, depth: int, *, bias: float = 0.0) -> Weights:
        """Draws float32 weights (float64 under x64) for `inputs` dimensions; `bias` is the standard deviation of b."""
        stem, shift, layers, head = jax.random.split(key, 4)
        n, out = self.width, self.width
        fan_in: Any = n
        if self.kind == "dense":
            fan_in = (n + self.growth * jnp.arange(depth))[:, None, None]
            n, out = n + depth * self.growth, self.growth
        return Weights(
            jax.random.normal(stem, (inputs, self.width)) / math.sqrt(inputs),
            jax.random.normal(shift, (self.width,)) * bias,
            jax.random.normal(layers, (depth, n, out)) * jnp.sqrt(2 / fan_in),
            jax.random.normal(head, (n,)),
        )

    def apply(self, weights: Weights, inputs: jax.Array, depth: int | jax.Array | None = None) -> jax.Array:
        """Returns f of inputs (batch, dimensions), (batch,); runs the first `depth` layers, or all."""
        return self.run(weights, inputs, depth)[0]

    def run(
        self, weights: Weights, inputs: jax.Array, depth: int | jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns f as `apply`, and for each layer the share of units that are active at two inputs at once, (L,)."""
        x = inputs @ weights.stem + weights.bias
        if self.kind == "dense":
            x = jnp.pad(x, ((0, 0), (0, len(weights.head) - self.width)))  # room for the outputs of all layers

        def layer(x: jax.Array, index: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
            active = jax.nn.relu(self.normalise(x))
            y = active @ kernel
            if self.kind == "residual":
                y = x + self.beta * y
            elif self.kind == "dense":
                y = jax.lax.dynamic_update_slice(x, y, (0, self.width + index * self.growth))
            return y, coactivation(active > 0).astype(x.dtype)

        def step(x: jax.Array, of: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            if depth is None:
                return layer(x, *of)
            return jax.lax.cond(of[0] < depth, layer, lambda x, *_: (x, jnp.full((), jnp.nan, x.dtype)), x, *of)

        x, coactive = jax.lax.scan(step, x, (jnp.arange(len(weights.layers)), weights.layers))
        return x @ weights.head, coactive

    def normalise(self, x: jax.Array) -> jax.Array:
        """Returns norm(x) of activations (batch, units)."""
        if self.norm is None:
            return x
        centred = x - jax.lax.stop_gradient(x.mean(0))
        if self.norm == "centre":
            return centred
        return centred * jax.lax.stop_gradient(jax.lax.rsqrt(x.var(0) + EPSILON))

    def gradients(self, weights: Weights, inputs: jax.Array, depth: int | jax.Array | None = None) -> jax.Array:
        """Returns ∂f/∂x at each of the inputs, (batch, dimensions)."""
        return jax.grad(lambda inputs: self.apply(weights, inputs, depth).sum())(inputs)


def coactivation(active: jax.Array) -> jax.Array:
    """The share of cases in which a pair of inputs activates a unit at both, from booleans (batch, units)."""
    batch = len(active)
    counts = active.sum(0, dtype=jnp.float32)
    return (counts * (counts - 1)).mean() / (batch * (batch - 1))


@dataclass(frozen=True)
class GradientCorrelation:
    """The correlation of gradients at two independent inputs, over weights.

    Attributes:
        depth: layers of the network, L.
        value: E⟨∇_i, ∇_j⟩ / E‖∇_i‖².
        error: its standard error over seeds.
        covariances, variances: (seeds,) ⟨∇_i, ∇_j⟩ and ‖∇_i‖² of each seed's network, means over inputs.
    """

    depth: int
    value: float
    error: float
    covariances: np.ndarray
    variances: np.ndarray


def gradient_correlations(
    network: FullyConnected, depths: Sequence[int], *, seeds: int = 32, inputs: int | None = None, seed: int = 0
) -> tuple[GradientCorrelation, ...]:
    """Measures the correlation of gradients at independent normal inputs, for each of several depths.

    Each seed at each depth has its own weights and inputs.

    Args:
        network: kind and width. The inputs have `width` dimensions. Finite width raises the correlation: in centred
            networks by about 40 / width of its value, at depths where it is 1/100 or less.
        depths: numbers of layers.
        seeds: networks of each depth, 2 or more.
        inputs: number of inputs of each network, of which all pairs count; by default the width.
        seed: of all random numbers.

    Raises:
        ValueError: a depth is under 1, or seeds or inputs are under 2.
    """
    inputs = network.width if inputs is None else inputs
    _at_least("depth", min(depths, default=0), 1)
    _at_least("seeds", seeds, 2)
    _at_least("inputs", inputs, 2)
    keys = jax.random.split(jax.random.key(seed), (len(depths), seeds))
    correlations = []
    for depth, of_depth in zip(depths, keys, strict=True):
        covariances, variances = map(np.asarray, _moments(network, max(depths), inputs, depth, of_depth))
        correlations.append(GradientCorrelation(depth, *ratio(covariances, variances), covariances, variances))
    return tuple(correlations)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _moments(
    network: FullyConnected, deepest: int, inputs: int, depth: jax.Array, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def of_seed(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        for_inputs, for_weights = jax.random.split(key)
        x = jax.random.normal(for_inputs, (inputs, network.width))
        g = network.gradients(network.init(for_weights, network.width, deepest), x, depth)
        squares, total = jnp.sum(g**2), g.sum(0)
        return (total @ total - squares) / (inputs * (inputs - 1)), squares / inputs

    # A loop and not vmap: one network keeps the machine busy, and all networks at once would fill the memory.
    return jax.lax.map(of_seed, keys)


def ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """The ratio Σ above / Σ below of paired samples, and its standard error to first order."""
    value = float(above.sum() / below.sum())
    rest = (above - value * below) / below.mean()
    return value, float(np.sqrt((rest**2).sum() / (len(rest) * (len(rest) - 1))))


def line_gradients(
    network: FullyConnected, depths: Sequence[int], inputs: np.ndarray, *, seeds: int = 16, seed: int = 0
) -> np.ndarray:
    """Computes ∂f/∂x along a line of 1-D inputs, as in figure 1 of Balduzzi 2017.

    Args:
        network: the kind; the stem's biases are normal with variance 1, so that units switch all along the line.
        depths: numbers of layers.
        inputs: (points,), which are also the batch that is normalised.
        seeds: networks of each depth.
        seed: of all random numbers.

    Returns:
        (depths, seeds, points).

    Raises:
        ValueError: a depth or seeds is under 1.
    """
    _at_least("depth", min(depths, default=0), 1)
    _at_least("seeds", seeds, 1)
    keys = jax.random.split(jax.random.key(seed), seeds)
    x = jnp.asarray(inputs, jnp.float32)[:, None]
    return np.stack([_line(network, max(depths), depth, x, keys) for depth in depths])


@partial(jax.jit, static_argnums=(0, 1))
def _line(network: FullyConnected, deepest: int, depth: jax.Array, x: jax.Array, keys: jax.Array) -> jax.Array:
    def of_seed(key: jax.Array) -> jax.Array:
        return network.gradients(network.init(key, 1, deepest, bias=1.0), x, depth)[:, 0]

    return jax.lax.map(of_seed, keys)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}; given {value}")
