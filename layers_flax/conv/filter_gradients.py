"""Convolutions whose gradient with respect to the kernel is fast on the CPU: dots, or one convolution in any place.

The rule of differentiation below consists of linear formulas, from which forward mode, reverse mode, `vmap` and higher
orders all follow. Reverse mode transposes the formula for the kernel, and this transpose is the code that runs.
"""

from collections.abc import Callable
from functools import partial, reduce
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from layers_flax.autodiff.linear_map import is_spread, linear_map
from layers_flax.conv.choices import KERNEL_GRADIENT, choose, shape_of
from layers_flax.conv.chunks import largest_part
from layers_flax.conv.grouped import dots_of_groups, stock_or_together
from layers_flax.conv.im2col import Pads, rows_of, stock_conv

# Values of a block of images: their patches stay in the processor's second cache.
BLOCK = 3 * 2**15


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def conv_by_choice(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """`stock_or_together` with the same derivatives; that of the kernel is faster on the CPU."""
    return stock_or_together(x, kernel, stride, pads)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _linear_in_image(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """The convolution, with a kernel (height, width, out, in); its transpose is the gradient of the image.

    At stride 1 JAX's transpose of this convolution has the axes of `stock_conv`. Inside loops XLA's CPU backend
    recognises only this order of axes; others are 16 times slower (jax 0.10). Groups are left as they are.
    """
    if x.shape[-1] != kernel.shape[2]:
        return stock_or_together(x, kernel, stride, pads)
    numbers = ("NHWC", "HWOI", "NHWC")
    return lax.conv_general_dilated(x, kernel.swapaxes(2, 3), (stride, stride), pads, dimension_numbers=numbers)


def _rule(convolve: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def jvp(stride, pads, primals, tangents):
        (x, kernel), (dx, dkernel) = primals, tangents
        y = convolve(x, kernel, stride, pads)
        return y, _linear_in_image(dx, kernel, stride, pads) + _linear_in_kernel(x, dkernel, stride, pads)

    return jvp


conv_by_choice.defjvp(_rule(conv_by_choice))
_linear_in_image.defjvp(_rule(_linear_in_image))


def _linear_in_kernel(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """The convolution, by the formula for its shape; its transpose is the gradient of the kernel."""
    formula = choose(KERNEL_GRADIENT, shape_of(x, kernel, stride, pads))
    return FORMULAS[formula or "channels as images"](x, kernel, stride, pads)


def _in_blocks(formula: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The formula, applied to as many images at a time as have room for their patches in the cache."""
    # The transpose recomputes the patches, which are many times as large as the images.
    formula = jax.checkpoint(formula, prevent_cse=False)
    batch = x.shape[0]
    if not isinstance(batch, int) or jax.device_count() > 1:
        return formula(x, kernel)  # a loop would have to fetch images from other devices
    block = largest_part(batch, max(1, BLOCK // max(1, prod(x.shape[1:]))))
    if block == batch:
        return formula(x, kernel)

    _, y = lax.scan(lambda _, images: ((), formula(images, kernel)), (), x.reshape(-1, block, *x.shape[1:]))
    return y.reshape(batch, *y.shape[2:])


def _balanced(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """y[h, w] = Σ_j (Σ_i x[h + i] K_ij)[w + j]: one dot of rows side by side, whose maps are shifted and added.

    The transpose is a dot of the image's shifts along one axis with the gradient's shifts along the other.
    """
    height, width, inputs, outputs = kernel.shape
    padded = _pad(x, 1, height // 2, height // 2)
    rows = jnp.concatenate([lax.slice_in_dim(padded, i, i + x.shape[1], axis=1) for i in range(height)], -1)
    kernel = kernel.swapaxes(1, 2).reshape(height * inputs, width * outputs)
    maps = (rows_of(rows) @ kernel).reshape(*x.shape[:3], width * outputs)
    moved = [_pad(y, 2, width - 1 - j, j) for j, y in enumerate(jnp.split(maps, width, -1))]
    return lax.slice_in_dim(reduce(jnp.add, moved), width // 2, width // 2 + x.shape[2], axis=2)


def _dots_then_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """y[h, w] = Σ_i Σ_j (x K_ij)[h + i, w + j]: a dot for each row i of the kernel, whose maps are shifted and added.

    This is for outputs of few channels, as in a dense layer. The transpose is a dot of the image with shifts of the
    gradient, which have no more channels than the image; patches of the image would have nine times as many.
    """
    height, width, inputs, outputs = kernel.shape
    rows = []
    for i in range(height):
        maps = rows_of(x) @ kernel[i].swapaxes(0, 1).reshape(inputs, width * outputs)
        columns = jnp.split(maps.reshape(*x.shape[:3], width * outputs), width, -1)
        row = reduce(jnp.add, [_shift(column, 2, j - width // 2) for j, column in enumerate(columns)])
        rows.append(_shift(row, 1, i - height // 2))
    return reduce(jnp.add, rows)


def _channels_as_images(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """XLA's convolution; its transpose is a convolution that takes images as channels and channels as images.

    JAX's own transpose differs only in the order of axes. XLA's CPU backend does not recognise that order inside a
    loop, and takes a hundred times as long (jax 0.10).
    """
    if is_spread(x):
        return stock_conv(x, kernel, stride, pads)  # JAX's transpose can spread the sum over devices
    *taps, _, _ = kernel.shape

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return stock_conv(x, kernel, stride, pads)

    def transpose(x: jax.Array, dy: jax.Array) -> jax.Array:
        # Without pixels that no step reaches the result has the kernel's size.
        ends = [(size - 1) * stride + tap for size, tap in zip(dy.shape[1:3], taps, strict=True)]
        behind = [end - size - before for end, size, (before, _) in zip(ends, x.shape[1:3], pads, strict=True)]
        kept = [size + min(0, more) for size, more in zip(x.shape[1:3], behind, strict=True)]
        x = lax.slice(x, (0, 0, 0, 0), (x.shape[0], *kept, x.shape[3]))
        dkernel = lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            dy.transpose(1, 2, 0, 3),
            (1, 1),
            [(before, max(0, more)) for (before, _), more in zip(pads, behind, strict=True)],
            rhs_dilation=(stride, stride),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return dkernel.transpose(1, 2, 0, 3)

    return linear_map(convolve, transpose, x, kernel)


def _pad(x: jax.Array, axis: int, before: int, behind: int) -> jax.Array:
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (before, behind, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _shift(x: jax.Array, axis: int, by: int) -> jax.Array:
    """x[i + by] in place of x[i] along `axis`, zero outside."""
    return _pad(x, axis, -by, by)


# Functions of images, kernel, stride and padding. The first is for several groups; the next two keep the size.
FORMULAS: dict[str, Callable[[jax.Array, jax.Array, int, Pads], jax.Array]] = {
    "dots of groups": lambda x, kernel, stride, pads: _in_blocks(
        partial(dots_of_groups, stride=stride, pads=pads), x, kernel
    ),
    "dots, then shifts": lambda x, kernel, stride, pads: _dots_then_shifts(x, kernel),
    "balanced": lambda x, kernel, stride, pads: _in_blocks(_balanced, x, kernel),
    "channels as images": _channels_as_images,
}
