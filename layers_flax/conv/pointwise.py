"""The dot of a 1×1 convolution, whose gradients read both factors in the order they lie in, on the CPU.

In dy kernelᵀ and xᵀ dy XLA's CPU backend reads one factor against its order, which takes up to four times as long as
the product itself. Here the smaller factor is transposed beforehand, or the product afterwards.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from layers_flax.autodiff.linear_map import is_spread, linear_map
from layers_flax.autodiff.optimization_barrier import optimization_barrier
from layers_flax.conv.im2col import rows_of, stock_conv

# Rows up to which the kernel is transposed for the image's gradient; with more rows the product takes far longer.
SOME = 2048


def subsample(x: jax.Array, stride: int) -> jax.Array:
    """Every `stride`-th pixel of both axes of (batch, height, width, channels), the first among them.

    It uses `lax.slice`, because indexing becomes a gather where the size of the batch is a symbol (`jax.export`).
    """
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1)) if stride > 1 else x


def by_pixels(dot: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The 1×1 convolution of NHWC images with an HWIO kernel as a `dot` of (pixels, in) and (in, out).

    The pixels are flattened, because a dot that contracts three axes makes XLA write a transposed copy.
    """
    return dot(rows_of(x), kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def strided(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The 1×1 convolution of every `stride`-th pixel.

    XLA's own convolution reads the pixels in place. Under differentiation they are cut out, once for all gradients, and
    a dot computes the product.
    """
    return stock_conv(x, kernel, stride, ((0, 0), (0, 0)))


@strided.defjvp
def _strided_jvp(
    stride: int, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(lambda x, kernel: by_pixels(dot_of_pixels, subsample(x, stride), kernel), primals, tangents)


def dot_of_pixels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, (pixels, in) and (in, out), and the same derivatives."""
    # With pixels on several devices the kernel's gradient is a sum over devices, which JAX's own rule can spread.
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


# Without the barrier XLA would move the transpose back into the product.
def _image_gradient(kernel: jax.Array, dy: jax.Array) -> jax.Array:
    pixels, (inputs, outputs) = len(dy), kernel.shape
    if pixels * (inputs + outputs) <= inputs * outputs:  # dy and the product have fewer numbers than the kernel
        return optimization_barrier(kernel @ dy.T).T
    return dy @ (optimization_barrier(kernel.T) if len(dy) <= SOME else kernel.T)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    (pixels, inputs), outputs = x.shape, dy.shape[1]
    return optimization_barrier(dy.T @ x).T if outputs < min(inputs, pixels) else x.T @ dy


def wide_sum_of_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """(..., in) and (..., out) to (in, out), xᵀ y over all pixels, in float32 or wider."""
    axes = tuple(range(x.ndim - 1))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return lax.dot_general(x, y, ((axes, axes), ((), ())), preferred_element_type=wide)
