"""Two-dimensional convolution with PyTorch's padding, by the formulas that are fast for its shape on the CPU."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.core import max_dim
from jax.nn.initializers import Initializer

from common_flax.checks import check_positive
from layers_flax.conv.choices import CONVOLUTION, KERNEL_GRADIENT, choose, shape_of
from layers_flax.conv.filter_gradients import conv_by_choice
from layers_flax.conv.grouped import stock_or_together
from layers_flax.conv.im2col import Pads, dot_of_im2col
from layers_flax.conv.pointwise import by_pixels, dot_of_pixels, strided, subsample
from layers_flax.parameters.initializers import he_normal_fan_out, zeros
from layers_flax.parameters.parameter import parameter, read


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

    Raises:
        ValueError: the kernel and groups do not match the images' channels, an option is not positive, the kernel is
            empty, or it is larger than the padded image.
    """
    check_positive("stride", stride)
    check_positive("groups", groups)
    if 0 in kernel.shape:
        raise ValueError(f"a kernel must have taps and channels; given shape {tuple(kernel.shape)}")
    if x.shape[-1] != groups * kernel.shape[2]:
        raise ValueError(
            f"{groups} groups of the kernel's {kernel.shape[2]} channels are not the images' {x.shape[-1]} channels"
        )
    pads = pads_of(x, kernel, stride, padding)
    check_window(x.shape[1:3], kernel.shape[:2], pads)
    shape = shape_of(x, kernel, stride, pads)
    formula = choose(CONVOLUTION, shape)
    if formula == "stock, differentiated as a dot":
        return strided(x, kernel, stride)
    if formula == "dot of pixels":
        return by_pixels(dot_of_pixels, subsample(x, stride), kernel)
    if formula == "dot of patches":
        return dot_of_im2col(x, kernel, stride, pads)
    if choose(KERNEL_GRADIENT, shape):
        return conv_by_choice(x, kernel, stride, pads)
    return stock_or_together(x, kernel, stride, pads)


def pads_of(x: jax.Array, kernel: jax.Array, stride: int, padding: int | str | None) -> Pads:
    """Zeros before and behind the rows and the columns of images; arguments as in `conv2d`."""
    rows, columns = (
        both_sides(padding, size, taps, stride) for size, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    )
    return rows, columns


def both_sides(padding: int | str | None, size: int, window: int, stride: int) -> tuple[int, int]:
    """Zeros before and behind an axis of `size` pixels; `padding` as in `conv2d`."""
    if padding is None:
        return (window - 1) // 2, (window - 1) // 2
    if padding == "same":
        both = max_dim((size - 1) // stride * stride + window - size, 0)
        return both // 2, both - both // 2
    if isinstance(padding, bool) or not isinstance(padding, Integral) or padding < 0:
        raise ValueError(f"padding must be None, 'same' or an integer of at least 0; given {padding!r}")
    return int(padding), int(padding)


def check_window(sizes: Sequence[Any], window: Sequence[int], pads: Pads) -> None:
    """Raises ImageTooSmall where a window is larger than the padded image; symbolic sizes (`jax.export`) may be any."""
    for side, size, taps, (pad, behind) in zip(("high", "wide"), sizes, window, pads, strict=True):
        if isinstance(size, int) and size + pad + behind < taps:
            raise ImageTooSmall(f"a window of {taps} with padding {pad} does not fit in an image {size} pixels {side}")


class ImageTooSmall(ValueError):
    """Raised where a window is larger than the padded image; a `Network` adds the least size that fits."""


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

    Raises:
        ValueError: features, kernel_size, stride or groups is not positive.
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

    def __post_init__(self) -> None:
        for name in ("features", "kernel_size", "stride", "groups"):
            check_positive(name, getattr(self, name))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, in) to (batch, height', width', features); ValueError if groups do not divide."""
        inputs = x.shape[-1]
        if inputs == 0:
            raise ValueError(f"images must have channels; given shape {tuple(x.shape)}")
        if inputs % self.groups or self.features % self.groups:
            raise ValueError(f"groups={self.groups} must divide the channels in ({inputs}) and out ({self.features})")
        shape = (self.kernel_size, self.kernel_size, inputs // self.groups, self.features)
        kernel = parameter(self, "kernel", self.kernel_init, shape, self.param_dtype)
        bias = parameter(self, "bias", zeros, (self.features,), self.param_dtype) if self.use_bias else None
        kernel, bias = read(self, x, kernel, bias)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = (self.convolve or conv2d)(x, kernel, stride=self.stride, padding=self.padding, groups=self.groups)
        return y if bias is None else y + bias
