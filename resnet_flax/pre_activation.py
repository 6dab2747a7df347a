"""The residual blocks of He 2016: BatchNorm and ReLU come before each convolution, the sum is left alone.

Where the shape changes the shortcut starts after the first activation, as in the authors' code; elsewhere it is x
itself. The first block of a network takes what the stem has activated already: "for the first Residual Unit, we
adopt the first activation right after conv1 and before splitting into two paths" (appendix).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
from flax import linen as nn

from layers_flax import BatchNorm, Conv, DropPath, conv_norm
from layers_flax.model.initializers import zeros
from resnet_flax.blocks import bottleneck_strides
from resnet_flax.shortcut import keeps_shape, shortcut


class PreActBasicBlock(nn.Module):
    """x + F(x), F twice BatchNorm, ReLU and a 3×3 convolution (He 2016, figure 4e).

    Attributes:
        features: channels of both convolutions and of the output.
        stride: of the first convolution and of the shortcut.
        activated: the input has been normalised and activated by the stem.
        shortcut: "A", "B", "C" or None, see `resnet_flax.shortcut`.
        zero_init: start the last convolution of F at zero. (Its last scale would be dead at zero: the ReLU that
            follows has no gradient there.)
        conv, norm: the layers, with types and `axis_name` bound by `functools.partial`.
        drop: the layer that drops F in training, with its rate bound (`layers_flax.DropPath`).
        folded: a BatchNorm behind a convolution is part of it (`weights_flax.fold_batch_norm`).
    """

    features: int
    stride: int = 1
    activated: bool = False
    shortcut: str | None = "B"
    zero_init: bool = False
    conv: Callable[..., Any] = Conv
    norm: Callable[..., Any] = BatchNorm
    drop: Callable[..., Any] = partial(DropPath, 0.0)
    folded: bool = False

    expansion: ClassVar[int] = 1
    pre_activation: ClassVar[bool] = True

    def setup(self):
        self.bn1 = self.norm()
        self.conv1, self.bn2 = conv_norm(self.conv, self.norm, self.folded, self.features, 3, self.stride)
        self.conv2 = last_conv(self.conv, self.zero_init)(self.features, 3)
        self.drop_path = self.drop()
        self.downsample = [self.conv(self.features, 1, self.stride)]

    def branches(self, x: jax.Array, train: bool = False) -> tuple[jax.Array | float, jax.Array]:
        """The shortcut of x and the residual F(x), before they are added."""
        y = active = x if self.activated else nn.relu(self.bn1(x, train))
        y = self.conv2(nn.relu(self.bn2(self.conv1(y), train)))
        return skip_of(self, x, active, self.features), y

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, height, width, channels) to (batch, height / stride, width / stride, features)."""
        skip, residual = self.branches(x, train)
        return skip + self.drop_path(residual, train)


class PreActBottleneckBlock(nn.Module):
    """x + F(x), F three times BatchNorm, ReLU and a convolution: 1×1, 3×3, 1×1 (He 2016, section 4.1).

    Attributes:
        features: a quarter of the channels out.
        groups, width_per_group, bottleneck_stride: as in `BottleneckBlock`.
        stride, activated, shortcut, zero_init, conv, norm, drop, folded: as in `PreActBasicBlock`.
    """

    features: int
    stride: int = 1
    activated: bool = False
    groups: int = 1
    width_per_group: int = 64
    bottleneck_stride: str = "v1.5"
    shortcut: str | None = "B"
    zero_init: bool = False
    conv: Callable[..., Any] = Conv
    norm: Callable[..., Any] = BatchNorm
    drop: Callable[..., Any] = partial(DropPath, 0.0)
    folded: bool = False

    expansion: ClassVar[int] = 4
    pre_activation: ClassVar[bool] = True

    def setup(self):
        inner = self.features * self.width_per_group // 64 * self.groups
        first, second = bottleneck_strides(self.bottleneck_stride, self.stride)
        normed = partial(conv_norm, self.conv, self.norm, self.folded)
        self.bn1 = self.norm()
        self.conv1, self.bn2 = normed(inner, 1, first)
        self.conv2, self.bn3 = normed(inner, 3, second, groups=self.groups)
        self.conv3 = last_conv(self.conv, self.zero_init)(4 * self.features, 1)
        self.drop_path = self.drop()
        self.downsample = [self.conv(4 * self.features, 1, self.stride)]

    def branches(self, x: jax.Array, train: bool = False) -> tuple[jax.Array | float, jax.Array]:
        """The shortcut of x and the residual F(x), before they are added."""
        y = active = x if self.activated else nn.relu(self.bn1(x, train))
        y = nn.relu(self.bn2(self.conv1(y), train))
        y = self.conv3(nn.relu(self.bn3(self.conv2(y), train)))
        return skip_of(self, x, active, 4 * self.features), y

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, height, width, channels) to (batch, height / stride, width / stride, 4 · features)."""
        skip, residual = self.branches(x, train)
        return skip + self.drop_path(residual, train)


def skip_of(
    block: PreActBasicBlock | PreActBottleneckBlock, x: jax.Array, active: jax.Array, features: int
) -> jax.Array | float:
    """The shortcut: from x where it is the identity, from the activated x where it has to change it."""
    identity = keeps_shape(x, block.stride, features) and block.shortcut != "C"
    return shortcut(x if identity else active, block.shortcut, block.stride, features, block.downsample[0])


def last_conv(conv: Callable[..., Any], zero_init: bool) -> Callable[..., Any]:
    """The layer that makes a branch's last convolution."""
    return partial(conv, kernel_init=zeros) if zero_init else conv
