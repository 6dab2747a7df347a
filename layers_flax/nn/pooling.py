"""Max, average, adaptive and global pooling of NHWC images, with PyTorch's padding and rounding (down).

On the CPU pooling is separable: along the width, then along the height. Each pass folds shifted strided slices, whose
gradient is a few pads and adds; that of `lax.reduce_window` is a scatter. Without a gradient `lax.reduce_window` is
faster where windows overlap. Accelerators have `lax.reduce_window` and its gradient as operations of their own. Each
pool runs under its name, window and stride ("max_pool_3x3_2"), which profiles and traces show.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial, reduce
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common_flax.checks import check_positive
from layers_flax.autodiff.backend import backend
from layers_flax.autodiff.linear_map import is_spread, linear_map
from layers_flax.conv.conv import ImageTooSmall, both_sides
from layers_flax.nn.means import mean_by_dot


def max_pool(x: jax.Array, window: int, stride: int | None = None, padding: int | str = 0) -> jax.Array:
    """The largest value of each window. The first of equal values, row by row, gets the gradient, as in PyTorch.

    Args:
        x: (batch, height, width, channels).
        window: height and width of the window.
        stride: of both axes; None is `window`.
        padding: on each side of both axes, an integer of at most half the window; "same" as in `conv2d`. It is never
            the largest.

    Returns:
        (batch, (height + 2 padding - window) // stride + 1, likewise for width, channels), of x's dtype.

    Raises:
        ValueError: the window is larger than the padded image, or the padding than half the window; the padding is
            neither an integer nor "same"; or window or stride is not positive.
    """
    stride = _stride(window, stride)
    _check_pixels(x)
    with _scope("max_pool", window, stride):
        if backend() == "cpu" or is_spread(x):
            return _max_pool(x, window, stride, padding)
        return _max_of_windows(x, (1, 2), window, stride, padding)


def avg_pool(x: jax.Array, window: int, stride: int | None = None, padding: int | str = 0) -> jax.Array:
    """The mean of each window, in which padding does not count (PyTorch's count_include_pad=False).

    Arguments, shapes and errors as in `max_pool`.
    """
    stride = _stride(window, stride)
    _check_pixels(x)
    with _scope("avg_pool", window, stride):
        if stride != window or padding or is_spread(x):
            return _mean_of_slices(x, window, stride, padding)
        # Each pixel belongs to at most one window, so that its gradient is written once.
        return linear_map(
            lambda _, x: _mean_of_slices(x, window, window, 0), lambda _, y: _repeat(y, window, *x.shape[1:3]), (), x
        )


@jax.named_scope("global_avg_pool")
def global_avg_pool(x: jax.Array, fused: bool = False) -> jax.Array:
    """(batch, height, width, channels) to (batch, channels): the mean over all pixels, in float32 or wider.

    With `fused` XLA sums while it computes `x`, in an order of its choice: faster, but rounding then depends on the
    network.
    """
    _check_pixels(x)
    # Of symbolic sizes (`jax.export`) JAX may not know that their product is none below zero, as a shape must be.
    if fused or not all(isinstance(size, int) for size in x.shape[1:3]):
        return x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
    batch, height, width, channels = x.shape
    return mean_by_dot(x.reshape(batch, height * width, channels))


@jax.named_scope("adaptive_avg_pool")
def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """(batch, height, width, channels) to (batch, size, size, channels), as PyTorch's AdaptiveAvgPool2d.

    Output i is the mean of the inputs from floor(i n / size) to ceil((i + 1) n / size), n the input's size.
    """
    _check_pixels(x)
    check_positive("size", size)
    for axis in (1, 2):
        n = x.shape[axis]
        if n == size:
            continue
        number = np if isinstance(n, int) else jnp  # the values of a symbolic size are known when the program runs
        start = number.arange(size) * n // size
        stop = -(-(number.arange(size) + 1) * n // size)
        inside = (number.arange(n) >= start[:, None]) & (number.arange(n) < stop[:, None])
        weights = jnp.asarray(inside / (stop - start)[:, None], x.dtype)
        x = jnp.moveaxis(jnp.tensordot(weights, x, (1, axis)), 0, axis)
    return x


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: int, stride: int, padding: int | str) -> jax.Array:
    if window <= stride or is_spread(x):
        return _max_of_slices(x, window, stride, padding)
    # XLA's CPU backend takes five to nine times as long over both axes at once. An exported program, whose number of
    # images is a symbol, also runs on other platforms.
    for axes in ((1,), (2,)) if isinstance(x.shape[0], int) else ((1, 2),):
        x = _max_of_windows(x, axes, window, stride, padding)
    return x


@_max_pool.defjvp
def _max_pool_jvp(window, stride, padding, primals, tangents):
    return jax.jvp(lambda x: _max_of_slices(x, window, stride, padding), primals, tangents)


def _max_of_windows(x: jax.Array, axes: tuple[int, ...], window: int, stride: int, padding: int | str) -> jax.Array:
    return _fold_windows(x, _lowest(x), lax.max, axes, window, stride, padding)


def _fold_windows(
    x: jax.Array,
    first: np.ndarray,
    fold: Callable[[Any, Any], Any],
    axes: tuple[int, ...],
    window: int,
    stride: int,
    padding: int | str,
) -> jax.Array:
    windows, strides, pads = [1] * 4, [1] * 4, [(0, 0)] * 4
    for axis in axes:
        windows[axis], strides[axis], pads[axis] = window, stride, _pads(x, axis, window, stride, padding)
    return lax.reduce_window(x, first, fold, windows, strides, pads)


def _max_of_slices(x: jax.Array, window: int, stride: int, padding: int | str) -> jax.Array:
    for axis in (2, 1):
        if isinstance(x.shape[axis], int):
            x = reduce(_first_larger, _slices(x, axis, window, stride, padding, _lowest(x)))
        else:  # only of `lax.reduce_window` JAX knows the shape then
            x = _max_of_windows(x, (axis,), window, stride, padding)
    return x


def _lowest(x: jax.Array) -> np.ndarray:
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min
    return np.asarray(lowest, x.dtype)


def _mean_of_slices(x: jax.Array, window: int, stride: int, padding: int | str) -> jax.Array:
    for axis in (2, 1):
        size = x.shape[axis]
        before, _ = _pads(x, axis, window, stride, padding)
        zero = np.zeros((), x.dtype)
        if isinstance(size, int):
            x = reduce(jnp.add, _slices(x, axis, window, stride, padding, zero))
        else:
            x = _fold_windows(x, zero, lax.add, (axis,), window, stride, padding)
        number = np if isinstance(size, int) else jnp  # the values of a symbolic size are known when the program runs
        starts = number.arange(x.shape[axis]) * stride - before
        counts = number.minimum(starts + window, size) - number.maximum(starts, 0)
        x = x * (1 / counts).reshape((x.shape[axis],) + (1,) * (3 - axis)).astype(x.dtype)
    return x


def _repeat(y: jax.Array, window: int, height: int, width: int) -> jax.Array:
    """The transpose of the mean of windows side by side, to images of a size; behind the last window it is zero."""
    batch, rows, columns, channels = y.shape
    share = (y * y.dtype.type(1 / window**2))[:, :, None, :, None]
    y = jnp.broadcast_to(share, (batch, rows, window, columns, window, channels))
    y = y.reshape(batch, rows * window, columns * window, channels)
    return jnp.pad(y, ((0, 0), (0, height - rows * window), (0, width - columns * window), (0, 0)))


def _check_pixels(x: jax.Array) -> None:
    """Raises ValueError for images without pixels, which have no mean; a symbolic size (`jax.export`) may be any."""
    if any(isinstance(size, int) and size == 0 for size in x.shape[1:3]):
        raise ImageTooSmall(f"images must have pixels; given shape {tuple(x.shape)}")


def _stride(window: int, stride: int | None) -> int:
    """The stride; None is the window. Raises ValueError where one of both is not positive."""
    check_positive("window", window)
    if stride is not None:
        check_positive("stride", stride)
    return window if stride is None else stride


def _scope(name: str, window: int, stride: int) -> AbstractContextManager[None]:
    return jax.named_scope(f"{name}_{window}x{window}_{stride}")


def _pads(x: jax.Array, axis: int, window: int, stride: int, padding: int | str) -> tuple[int, int]:
    """Padding before and behind `axis`; ValueError where the window does not fit."""
    whole = isinstance(padding, Integral) and not isinstance(padding, bool)
    if padding != "same" and not (whole and 0 <= int(padding) <= window // 2):
        raise ValueError(f"padding must be 'same', or from 0 to half the window of {window}; given {padding!r}")
    before, behind = both_sides(padding, x.shape[axis], window, stride)
    size = x.shape[axis]
    if isinstance(size, int) and size + before + behind < window:  # a symbolic size (`jax.export`) may be any
        where = f"an image {size} pixels {'high' if axis == 1 else 'wide'}"
        raise ImageTooSmall(f"a window of {window} with padding {padding} does not fit in {where}")
    return before, behind


def _slices(x: jax.Array, axis: int, window: int, stride: int, padding: int | str, fill: np.ndarray) -> list[jax.Array]:
    """The `window` shifted, strided views of `x` along `axis`: one for each place in the window."""
    before, behind = _pads(x, axis, window, stride, padding)
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (before, behind, 0)
    x = lax.pad(x, fill, pads) if before or behind else x
    reach = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(window)]


def _first_larger(first: jax.Array, second: jax.Array) -> jax.Array:
    """The larger; `first` where they are equal; NaN where either is."""
    return jnp.where((second > first) | jnp.isnan(second), second, first)
