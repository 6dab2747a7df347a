"""A dot whose gradient for few rows does not turn the large factor around, on the CPU."""

import jax

from layers_flax.linear_map import linear_map
from layers_flax.once import once


@jax.custom_jvp
def dot_of_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel` of few rows, (few, in) and (in, out), and the same derivatives.

    The gradient of `x`, dy kernelᵀ, has XLA's CPU backend read the kernel against its order, which takes up to four
    times as long as the product itself. kernel dyᵀ does not; what is turned around then is small.
    """
    return x @ kernel


@dot_of_few.defjvp
def _dot_of_few_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    return dot_of_few(x, kernel), linear_map(_product, _transpose, kernel, dx) + x @ dkernel


def _product(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return dot_of_few(x, kernel)


def _transpose(kernel: jax.Array, dy: jax.Array) -> jax.Array:
    # XLA would put the transpose into the product again.
    return once(kernel @ dy.T).T
