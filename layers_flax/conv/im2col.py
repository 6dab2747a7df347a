"""A convolution as XLA computes it, and as one dot of all pixels under the kernel."""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]


def stock_conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1) -> jax.Array:
    """XLA's convolution of NHWC images and an HWIO kernel."""
    if not all(isinstance(pad, int) for both in pads for pad in both):  # a convolution takes no symbol (`jax.export`)
        x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*both, 0) for both in pads), (0, 0, 0)))
        pads = ((0, 0), (0, 0))
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def dot_of_im2col(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """y[h, w] = Σ_ij x[h + i, w + j] K_ij as one dot of the pixels under all taps, side by side.

    Taps that meet only the padding are left out, but at least one stays.
    """
    rows, columns = (
        (
            steps := steps_of(size, taps, stride, pad),
            [i for i in range(taps) if _meets(size, i - pad[0], stride, steps)] or [0],
        )
        for size, taps, pad in zip(x.shape[1:3], kernel.shape[:2], pads, strict=True)
    )
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    ends = [(steps - 1) * stride + 1 for steps, _ in (rows, columns)]
    places = [(i, j) for i in rows[1] for j in columns[1]]

    def under(i: int, j: int) -> jax.Array:
        return lax.slice(x, (0, i, j, 0), (x.shape[0], i + ends[0], j + ends[1], x.shape[3]), (1, stride, stride, 1))

    pixels = jnp.concatenate([under(*place) for place in places], -1)
    every = len(places) == kernel.shape[0] * kernel.shape[1]  # as it lies in memory
    weights = kernel.reshape(-1, kernel.shape[-1]) if every else jnp.concatenate([kernel[place] for place in places])
    return (rows_of(pixels) @ weights).reshape(*pixels.shape[:-1], kernel.shape[-1])


def rows_of(x: jax.Array) -> jax.Array:
    """(..., channels) to (pixels, channels); JAX infers no size of an empty batch, as -1 would ask."""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])


def steps_of(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """Output pixels along one axis."""
    return (size + sum(pad) - kernel) // stride + 1


def _meets(size: int, offset: int, stride: int, steps: int) -> bool:
    """Tells if a kernel tap at this offset reads any of `size` pixels in its steps."""
    return any(0 <= step * stride + offset < size for step in range(steps))
