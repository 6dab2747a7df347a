"""The convolutions of a network for inference: the formulas that are fast forward, for its shape, on the CPU."""

import jax
import jax.numpy as jnp
from jax import lax

from layers_flax.choices import INFERENCE, choose, shape_of
from layers_flax.conv import conv2d, pads_of
from layers_flax.patches import dot_of_patches


def forward_conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int | str | None = None, groups: int = 1
) -> jax.Array:
    """What `conv2d` computes, of the same arguments, where no gradient of the kernel is to be taken.

    XLA gives convolutions on the CPU to a library that arranges the kernel anew on one core each time, and convolves
    to 64 channels or fewer on one core as well. Of few pixels a dot of patches is faster. A convolution whose output
    is larger than its input the library does not take; what XLA makes of it runs on all cores, and is slower of few
    channels alone.
    """
    pads = pads_of(x, kernel, stride, padding)
    formula = choose(INFERENCE, shape_of(x, kernel, stride, pads))
    if formula == "dot of patches":
        return dot_of_patches(x, kernel, stride, pads)
    if formula == "a row too many":
        return _with_a_row_too_many(x, kernel)
    if formula == "pairs of pixels":
        return _of_pairs_of_pixels(x, kernel)
    return conv2d(x, kernel, stride=stride, padding=padding, groups=groups)


def _with_a_row_too_many(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of stride 1 that keeps the size, computed one row further down; that row is dropped."""
    pad = kernel.shape[0] // 2
    return _convolve(x, kernel, (1, 1), [(pad, pad + 1), (pad, pad)])[:, :-1]


def _of_pairs_of_pixels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of stride 2 of few channels, as a stem's: one of stride 1 along the width, of pairs of pixels.

    Of the output's columns the last, one too many, is dropped.
    """
    batch, height, width, inputs = x.shape
    size, _, _, outputs = kernel.shape
    # The taps from -(size // 2) to size // 2 begin with the second pixel of a pair, or end with the first of one.
    odd = size // 2 % 2
    kernel = jnp.pad(kernel, ((0, 0), (odd, 1 - odd), (0, 0), (0, 0)))
    # Split, then merged: in one step JAX does not see that a batch spread over an explicit mesh stays where it is.
    pairs = x.reshape(batch, height, width // 2, 2, inputs).reshape(batch, height, width // 2, 2 * inputs)
    kernel = kernel.reshape(size, (size + 1) // 2, 2 * inputs, outputs)
    before = (size // 2 + 1) // 2
    pads = [(size // 2, size // 2), (before, kernel.shape[1] - before)]
    return _convolve(pairs, kernel, (2, 1), pads)[:, :, :-1]


def _convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: list[tuple[int, int]]) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
