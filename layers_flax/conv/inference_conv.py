"""The convolutions of a network for inference: the formulas that are fast forward, for its shape, on the CPU."""

import jax

from layers_flax.autodiff.optimization_barrier import optimization_barrier
from layers_flax.conv.choices import INFERENCE, choose, shape_of
from layers_flax.conv.conv import conv2d, pads_of
from layers_flax.conv.im2col import stock_conv


def inference_conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int | str | None = None, groups: int = 1
) -> jax.Array:
    """Computes the same as `conv2d`, faster where nobody takes the gradient of the kernel.

    By default XLA leaves convolutions on the CPU to YNNPACK, which computes 64 channels or fewer on one core. YNNPACK
    refuses a convolution whose output is larger than its input; XLA's other code then runs on all cores. Programs
    compiled with `training_flax.compiler_options` do not use YNNPACK, and lose 1 to 4 % here.
    """
    pads = pads_of(x, kernel, stride, padding)
    formula = choose(INFERENCE, shape_of(x, kernel, stride, pads))
    if formula == "stock":
        return stock_conv(x, kernel, stride, pads)
    if formula == "a row too many":
        return _with_a_row_too_many(x, kernel)
    y = conv2d(x, kernel, stride=stride, padding=padding, groups=groups)
    # Otherwise XLA moves the reshape of the dot behind bias and ReLU, and cannot write them in place.
    return optimization_barrier(y) if kernel.shape[:2] == (1, 1) else y


def _with_a_row_too_many(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of stride 1 that keeps the size, computed one row further down; that row is dropped."""
    pad = kernel.shape[0] // 2
    return stock_conv(x, kernel, 1, ((pad, pad + 1), (pad, pad)))[:, :-1]
