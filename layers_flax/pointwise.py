"""The dot of a 1×1 convolution, whose gradients read both factors in the order they lie in, on the CPU.

Of dy kernelᵀ and xᵀ dy, XLA's CPU backend reads one factor against its order, which takes up to four times as long as
the product itself. Here the smaller of the factors is turned around beforehand, or the product afterwards.
"""

import jax

from layers_flax.linear_map import is_spread, linear_map
from layers_flax.once import once

# Rows of which the product is turned around, and of which the kernel is; of more it takes less time than the product.
FEW, SOME = 64, 2048


def dot_of_pixels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, (pixels, in) and (in, out), and the same derivatives."""
    # Of pixels on several devices the kernel's gradient is a sum over them, which JAX's own rule knows how to spread.
    return x @ kernel if is_spread(x) else _dot(x, kernel)


@jax.custom_jvp
def _dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


@_dot.defjvp
def _jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    by_x = linear_map(lambda kernel, x: _dot(x, kernel), _image_gradient, kernel, dx)
    by_kernel = linear_map(_dot, _kernel_gradient, x, dkernel)
    return _dot(x, kernel), by_x + by_kernel


# Without `once` XLA would put what is turned around into the product again.
def _image_gradient(kernel: jax.Array, dy: jax.Array) -> jax.Array:
    if len(dy) <= FEW:
        return once(kernel @ dy.T).T
    return dy @ (once(kernel.T) if len(dy) <= SOME else kernel.T)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    return once(dy.T @ x).T if x.shape[1] > dy.shape[1] else x.T @ dy
