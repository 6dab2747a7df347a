"""Two-dimensional convolution with PyTorch's padding; 1×1 kernels run as a dot over flattened pixels."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.nn.initializers import Initializer

from layers_flax.initializers import he_normal_fan_out


def conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int | None = None, groups: int = 1
) -> jax.Array:
    """Cross-correlates NHWC images with an HWIO kernel, as PyTorch's conv2d does.

    Args:
        x: (batch, height, width, in), of the kernel's dtype.
        kernel: (kernel_h, kernel_w, in / groups, out).
        stride: of both axes.
        padding: zeros on each side of both axes; None is (kernel - 1) // 2, which keeps the size at stride 1
            for odd kernels. Explicit, because "SAME" pads strided convolutions otherwise than PyTorch.
        groups: in and out channels are split into this many groups that do not see each other.

    Returns:
        (batch, (height + 2 padding - kernel_h) // stride + 1, likewise for width, out).
    """
    height, width = kernel.shape[:2]
    pads = [((size - 1) // 2,) * 2 if padding is None else (padding, padding) for size in (height, width)]
    if height == width == groups == 1 and pads == [(0, 0), (0, 0)]:
        # A dot over flattened pixels: the filter gradient is then a dot as well, which on the CPU is several times
        # faster than XLA's filter gradient of a convolution. Flattened, because a dot that contracts three axes
        # makes XLA write out a transposed copy of its operand.
        x = x[:, ::stride, ::stride] if stride > 1 else x
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


class Conv(nn.Module):
    """A convolution layer: parameter `kernel` (HWIO) and, with `use_bias`, `bias` (out,).

    Attributes:
        features: channels out.
        kernel_size: height and width of the kernel.
        stride: of both axes.
        padding: zeros on each side of both axes; None is (kernel_size - 1) // 2.
        groups: number of channel groups (Xie 2017).
        use_bias: False where a BatchNorm follows.
        dtype: the compute type; None is the promotion of input and parameters.
        param_dtype: the type of kernel and bias.
        kernel_init: initialiser of the kernel; the bias starts at zero.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = he_normal_fan_out

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
        y = conv2d(x, kernel, stride=self.stride, padding=self.padding, groups=self.groups)
        return y if bias is None else y + bias
