"""The residual blocks of He 2015: the sum of shortcut and residual is activated."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
from flax import linen as nn

from common_flax.checks import one_of
from layers_flax import BatchNorm, Conv, DropPath, conv_norm
from layers_flax.model.initializers import ones, zeros
from resnet_flax.shortcut import shortcut

STRIDES = ("v1.5", "v1")


class BasicBlock(nn.Module):
    """relu(x + F(x)), F two 3×3 convolutions (He 2015, figure 5, left).

    Attributes:
        features: channels of both convolutions and of the output.
        stride: of the first convolution and of the shortcut.
        shortcut: "A", "B", "C" or None, see `resnet_flax.shortcut`.
        zero_init: start the last scale of F at zero, so that the block starts as its shortcut (Goyal 2017).
        conv, norm: the layers, with types and `axis_name` bound by `functools.partial`.
        drop: the layer that drops F in training, with its rate bound (`layers_flax.DropPath`).
        folded: each BatchNorm is part of the convolution before it (`weights_flax.fold_batch_norm`).
    """

    features: int
    stride: int = 1
    shortcut: str | None = "B"
    zero_init: bool = False
    conv: Callable[..., Any] = Conv
    norm: Callable[..., Any] = BatchNorm
    drop: Callable[..., Any] = partial(DropPath, 0.0)
    folded: bool = False

    expansion: ClassVar[int] = 1
    pre_activation: ClassVar[bool] = False

    def setup(self):
        normed = partial(conv_norm, self.conv, self.norm, self.folded)
        self.conv1, self.bn1 = normed(self.features, 3, self.stride)
        self.conv2, self.bn2 = normed(self.features, 3, scale_init=last_scale(self.zero_init))
        self.drop_path = self.drop()
        self.downsample = normed(self.features, 1, self.stride)

    def branches(self, x: jax.Array, train: bool = False) -> tuple[jax.Array | float, jax.Array]:
        """The shortcut of x and the residual F(x), before they are added."""
        y = nn.relu(self.bn1(self.conv1(x), train))
        y = self.bn2(self.conv2(y), train)
        return shortcut(x, self.shortcut, self.stride, self.features, lambda x: project(self, x, train)), y

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, height, width, channels) to (batch, height / stride, width / stride, features)."""
        skip, residual = self.branches(x, train)
        return nn.relu(skip + self.drop_path(residual, train))


class BottleneckBlock(nn.Module):
    """relu(x + F(x)), F of 1×1, 3×3 and 1×1 convolutions (He 2015, figure 5, right).

    Attributes:
        features: a quarter of the channels out.
        stride: of the block: on its 3×3 convolution ("v1.5", torchvision) or on its first 1×1 ("v1", the paper).
        groups, width_per_group: the 3×3 convolution has features · width_per_group / 64 · groups channels in
            `groups` groups (Xie 2017, figure 3c; Zagoruyko 2016 has one wide group).
        bottleneck_stride: "v1.5" or "v1".
        shortcut, zero_init, conv, norm, drop, folded: as in `BasicBlock`.
    """

    features: int
    stride: int = 1
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
    pre_activation: ClassVar[bool] = False

    def setup(self):
        inner = self.features * self.width_per_group // 64 * self.groups
        first, second = bottleneck_strides(self.bottleneck_stride, self.stride)
        normed = partial(conv_norm, self.conv, self.norm, self.folded)
        self.conv1, self.bn1 = normed(inner, 1, first)
        self.conv2, self.bn2 = normed(inner, 3, second, groups=self.groups)
        self.conv3, self.bn3 = normed(4 * self.features, 1, scale_init=last_scale(self.zero_init))
        self.drop_path = self.drop()
        self.downsample = normed(4 * self.features, 1, self.stride)

    def branches(self, x: jax.Array, train: bool = False) -> tuple[jax.Array | float, jax.Array]:
        """The shortcut of x and the residual F(x), before they are added."""
        y = nn.relu(self.bn1(self.conv1(x), train))
        y = nn.relu(self.bn2(self.conv2(y), train))
        y = self.bn3(self.conv3(y), train)
        return shortcut(x, self.shortcut, self.stride, 4 * self.features, lambda x: project(self, x, train)), y

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, height, width, channels) to (batch, height / stride, width / stride, 4 · features)."""
        skip, residual = self.branches(x, train)
        return nn.relu(skip + self.drop_path(residual, train))


def project(block: BasicBlock | BottleneckBlock, x: jax.Array, train: bool) -> jax.Array:
    """The projection of He 2015: a strided 1×1 convolution and a BatchNorm."""
    conv, norm = block.downsample
    return norm(conv(x), train)


def last_scale(zero_init: bool) -> nn.initializers.Initializer:
    """The initialiser of a branch's last BatchNorm scale."""
    return zeros if zero_init else ones


def bottleneck_strides(where: str, stride: int) -> tuple[int, int]:
    """The strides of a bottleneck's first 1×1 and of its 3×3 convolution."""
    one_of("bottleneck_stride", where, STRIDES)
    return (1, stride) if where == "v1.5" else (stride, 1)
