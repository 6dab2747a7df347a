"""Barriers that make XLA compute an array, or its gradient, once, and keep it until every consumer has read it."""

import jax
import jax.numpy as jnp
from jax import lax

from layers_flax.autodiff.backend import backend
from layers_flax.autodiff.linear_map import linear_map


def optimization_barrier(x: jax.Array) -> jax.Array:
    """Returns `x`, and keeps XLA's CPU backend from recomputing it in each operation that reads it.

    XLA recomputes sums and ReLUs in every consumer, because it counts them as cheap. In a residual network every block
    would then start with the sum of all earlier blocks; in a dense network the gradient of each layer's features would
    be a sum over all later layers. The gradient of `x` is computed once as well. The barrier works in programs that are
    compiled with `training_flax.compiler_options`. On other backends, and in exported programs whose batch size is a
    symbol, it changes nothing.

    Args:
        x: an array of any shape and type.
    """
    fixed = all(isinstance(size, int) for size in jnp.shape(x))
    return lax.optimization_barrier(x) if fixed and backend() == "cpu" else x


def separate_gradient(x: jax.Array) -> jax.Array:
    """Returns `x`, whose gradient XLA computes by itself on accelerators.

    It is for an array that is joined to a larger one: every consumer of its gradient would read that of the whole.
    """
    return x if backend() == "cpu" else linear_map(lambda _, x: x, lambda _, g: lax.optimization_barrier(g), (), x)
