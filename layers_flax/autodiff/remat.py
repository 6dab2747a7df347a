"""Rematerialisation: the backward pass runs a part of a network again to keep fewer values (Chen et al. 2016)."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import jax
from flax import linen as nn
from flax.core import lift
from flax.linen.transforms import lift_transform

from layers_flax.autodiff.linear_map import after, linear_map


def remat(block: type[nn.Module]) -> type[nn.Module]:
    """Returns the class of a block that keeps only its variables and input for the backward pass.

    Like `flax.linen.remat`, under which XLA's CPU backend merges the second run with the first and keeps all values.

    Args:
        block: called with maps (batch, height, width, channels) and `train`.
    """
    return lift_transform(_lifted, block)


def _lifted(run: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def inner(scope_of: Any, variables_of: Any, variables: Any, keys: Any, x: jax.Array, train: bool = False) -> Any:
        counts: list[Any] = []

        def pure(keys: Any, variables: Any, x: jax.Array) -> Any:
            scope = scope_of(variables, keys)
            _draw_again(scope, counts)
            return run(scope, x, train), variables_of(scope)

        if not jax.tree.leaves(variables):  # `init` is making them
            return pure(keys, variables, x)

        @jax.custom_jvp
        def again(keys: Any, variables: Any, x: jax.Array) -> Any:
            return pure(keys, variables, x)

        @again.defjvp
        def tangent_of_again(primals: Any, tangents: Any) -> Any:
            return again(*primals), linear_map(_tangent, _gradient, primals, tangents[1:])

        def _tangent(primals: Any, tangents: Any) -> Any:
            keys, *points = primals
            return jax.jvp(partial(pure, keys), tuple(points), tangents)[1]

        def _gradient(primals: Any, cotangents: Any) -> Any:
            keys, variables, x = primals
            return jax.vjp(partial(pure, keys), variables, after(x, cotangents[0]))[1](cotangents)

        return again(keys, variables, x)

    return lift.pack(inner, (True,), (True,), (True,), name="remat", enable_kwargs=True)


def _draw_again(scope: Any, counts: list[Any]) -> None:
    """Makes a run draw the random numbers of the first run, before which `counts` is empty.

    Flax folds a count of draws into each key, and goes on counting from run to run.
    """
    counters = [each.rng_counters for each in jax.tree.leaves(scope)]
    if not counts:
        counts.extend(map(deepcopy, counters))
    for counter, before in zip(counters, counts, strict=True):
        counter.clear()
        counter.update(deepcopy(before))
