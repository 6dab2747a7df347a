"""Two-dimensional convolution with PyTorch's padding, by the formulas that are fast for its shape on the CPU."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.nn.initializers import Initializer

from layers_flax.initializers import he_normal_fan_out


def conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int | str | None = None, groups: int = 1
) -> jax.Array:
    """Cross-correlates NHWC images with an HWIO kernel, as PyTorch's conv2d does.

    Args:
        x: (batch, height, width, in), of the kernel's dtype.
        kernel: (kernel_h, kernel_w, in / groups, out).
        stride: of both axes.
        padding: zeros on each side of both axes; None is (kernel - 1) // 2, which keeps the size at stride 1
            for odd kernels; "same" is TensorFlow's: where the stride is 2 and the size even, a pixel less on the upper
            and left sides.
        groups: in and out channels are split into this many groups that do not see each other.

    Returns:
        (batch, (height + 2 padding - kernel_h) // stride + 1, likewise for width, out).
    """
    height, width = kernel.shape[:2]
    sides = zip(x.shape[1:3], (height, width), strict=True)
    pads = [both_sides(padding, size, taps, stride) for size, taps in sides]
    if height == width == groups == 1 and pads == [(0, 0), (0, 0)]:
        # A dot over flattened pixels: the filter gradient is then a dot as well, which on the CPU is several times
        # faster than XLA's filter gradient of a convolution. Flattened, because a dot that contracts three axes
        # makes XLA write out a transposed copy of its operand.
        x = subsample(x, stride)
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])
    if groups == 1 and _steps(x.shape[1], height, stride, pads[0]) * _steps(x.shape[2], width, stride, pads[1]) <= 4:
        return _dot_of_patches(x, kernel, stride, pads)
    same_size = stride == 1 and all(2 * low + 1 == size for (low, _), size in zip(pads, (height, width), strict=True))
    if same_size and groups == 1 and width * kernel.shape[3] <= kernel.shape[2] and jax.default_backend() == "cpu":
        return _to_few_channels(x, kernel)
    return _stock(x, kernel, stride, pads, groups)


def both_sides(padding: int | str | None, size: int, window: int, stride: int) -> tuple[int, int]:
    """Zeros before and behind an axis of `size` pixels; `padding` as in `conv2d`."""
    if padding is None:
        return (window - 1) // 2, (window - 1) // 2
    if padding == "same":
        both = max((-(-size // stride) - 1) * stride + window - size, 0)
        return both // 2, both - both // 2
    assert isinstance(padding, int)
    return padding, padding


def subsample(x: jax.Array, stride: int) -> jax.Array:
    """Every `stride`-th pixel of both axes of (batch, height, width, channels), the first among them.

    By `lax.slice`, because indexing is a gather where the size of the batch is a symbol (`jax.export`).
    """
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1)) if stride > 1 else x


def _stock(x: jax.Array, kernel: jax.Array, stride: int, pads: list[tuple[int, int]], groups: int = 1) -> jax.Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def _steps(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """Output pixels along one axis."""
    return (size + sum(pad) - kernel) // stride + 1


def _dot_of_patches(x: jax.Array, kernel: jax.Array, stride: int, pads: list[tuple[int, int]]) -> jax.Array:
    """The convolution as one dot of the pixels under each kernel tap, side by side, with the taps on top of each other.

    For outputs of up to 2×2 pixels, as the last stages have on small images. XLA's convolution there takes ten times
    as long or more on the CPU. Taps that nowhere meet the image, but only its padding, are left out.
    """
    rows, columns = (
        (steps := _steps(size, taps, stride, pad), [i for i in range(taps) if _meets(size, i - pad[0], stride, steps)])
        for size, taps, pad in zip(x.shape[1:3], kernel.shape[:2], pads, strict=True)
    )
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    ends = [(steps - 1) * stride + 1 for steps, _ in (rows, columns)]
    places = [(i, j) for i in rows[1] for j in columns[1]]

    def under(i: int, j: int) -> jax.Array:
        return lax.slice(x, (0, i, j, 0), (x.shape[0], i + ends[0], j + ends[1], x.shape[3]), (1, stride, stride, 1))

    pixels = jnp.concatenate([under(*place) for place in places], -1)
    weights = jnp.concatenate([kernel[place] for place in places])
    return (pixels.reshape(-1, pixels.shape[-1]) @ weights).reshape(*pixels.shape[:-1], kernel.shape[-1])


def _meets(size: int, offset: int, stride: int, steps: int) -> bool:
    """Whether a kernel tap at this offset reads any of `size` pixels in its steps."""
    return any(0 <= step * stride + offset < size for step in range(steps))


@jax.custom_jvp
def _to_few_channels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of stride 1 to few channels from many, as in a dense layer: its filter gradient is made of dots.

    Reverse mode transposes the formulas in the rule below, so what stands there for the kernel is what runs.
    """
    return _stock(x, kernel, 1, [(size // 2,) * 2 for size in kernel.shape[:2]])


@_to_few_channels.defjvp
def _to_few_channels_jvp(primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    return _to_few_channels(x, kernel), _to_few_channels(dx, kernel) + _dots_then_shifts(x, dkernel)


def _dots_then_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """y[h, w] = Σ_i Σ_j (x K_ij)[h + i, w + j]: a dot for each row i of the kernel, whose maps are shifted and added.

    Linear in the kernel, with the transpose xᵀ times shifts of y's gradient. These have no more channels than `x`,
    where patches of `x` would have nine times as many.
    """
    height, width, inputs, outputs = kernel.shape
    rows = []
    for i in range(height):
        maps = x.reshape(-1, inputs) @ kernel[i].swapaxes(0, 1).reshape(inputs, width * outputs)
        columns = jnp.split(maps.reshape(*x.shape[:3], width * outputs), width, -1)
        row = reduce(jnp.add, [_shift(column, 2, j - width // 2) for j, column in enumerate(columns)])
        rows.append(_shift(row, 1, i - height // 2))
    return reduce(jnp.add, rows)


def _shift(x: jax.Array, axis: int, by: int) -> jax.Array:
    """x[i + by] in place of x[i] along `axis`, zero outside."""
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (-by, by, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


class Conv(nn.Module):
    """A convolution layer: parameter `kernel` (HWIO) and, with `use_bias`, `bias` (out,).

    Attributes:
        features: channels out.
        kernel_size: height and width of the kernel.
        stride: of both axes.
        padding: zeros on each side of both axes; None is (kernel_size - 1) // 2; "same" as in `conv2d`.
        groups: number of channel groups (Xie 2017).
        use_bias: False where a BatchNorm follows.
        dtype: the compute type; None is the promotion of input and parameters.
        param_dtype: the type of kernel and bias.
        kernel_init: initialiser of the kernel; the bias starts at zero.
        convolve: `conv2d`, or another function that computes the same; None is `conv2d`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | str | None = None
    groups: int = 1
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = he_normal_fan_out
    convolve: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, in) to (batch, height', width', features); ValueError if groups do not divide."""
        inputs = x.shape[-1]
        if inputs % self.groups or self.features % self.groups:
            raise ValueError(f"groups={self.groups} must divide the channels in ({inputs}) and out ({self.features})")
        shape = (self.kernel_size, self.kernel_size, inputs // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = (self.convolve or conv2d)(x, kernel, stride=self.stride, padding=self.padding, groups=self.groups)
        return y if bias is None else y + bias
