"""The dot of a 1×1 convolution, whose gradients read both factors in the order they lie in, on the CPU.

Of dy kernelᵀ and xᵀ dy, XLA's CPU backend reads one factor against its order, which takes up to four times as long as
the product itself. Here the smaller of the factors is turned around beforehand, or the product afterwards.
"""

import jax

from layers_flax.linear_map import linear_map
from layers_flax.once import once

# Rows of which the product is turned around, and of which the kernel is; of more it takes less time than the product.
FEW, SOME = 64, 2048


@jax.custom_jvp
def dot_of_pixels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, (pixels, in) and (in, out), and the same derivatives."""
    return x @ kernel


@dot_of_pixels.defjvp
def _jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    by_x = linear_map(lambda kernel, x: dot_of_pixels(x, kernel), _image_gradient, kernel, dx)
    by_kernel = linear_map(dot_of_pixels, _kernel_gradient, x, dkernel)
    return dot_of_pixels(x, kernel), by_x + by_kernel


# Without `once` XLA would put what is turned around into the product again.
def _image_gradient(kernel: jax.Array, dy: jax.Array) -> jax.Array:
    if len(dy) <= FEW:
        return once(kernel @ dy.T).T
    return dy @ (once(kernel.T) if len(dy) <= SOME else kernel.T)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    return once(dy.T @ x).T if x.shape[1] > dy.shape[1] else x.T @ dy
