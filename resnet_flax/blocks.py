"""The residual blocks of He 2015: the sum of shortcut and residual is activated."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
from flax import linen as nn

from common_flax.checks import one_of
from layers_flax import BatchNorm, Conv, DropPath, conv_and_norm, conv_norm
from layers_flax.parameters.initializers import ones, zeros
from resnet_flax.shortcut import shortcut

STRIDES = ("v1.5", "v1")


class ResidualBlock(nn.Module):
    """The base of residual blocks: y = shortcut(x) + F(x), activated unless `pre_activation`.

    A block of one's own is a subclass with the method `branches(x, train)`, which returns the shortcut of x (0.0 where
    there is none) and the residual F(x) before they are added; and with `expansion` and `pre_activation`.

    Attributes:
        features: channels of the first convolutions; the output has expansion · features.
        stride: of one convolution of F and of the shortcut.
        shortcut: "A", "B", "C" or None, see `resnet_flax.shortcut`.
        zero_init: start F at zero, so that the block starts as its shortcut (Goyal 2017).
        conv, norm, drop: the layers, with their options bound; `drop` drops F in training (`layers_flax.DropPath`).
        folded: a BatchNorm behind a convolution is part of it (`weights_flax.fold_batch_norm`).
        expansion: channels of the output for each one of `features`.
        pre_activation: the sum is not activated (He 2016).
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
    branches: ClassVar[Callable[..., tuple[jax.Array | float, jax.Array]]]

    channels = property(lambda self: self.expansion * self.features, doc="Channels of the output.")

    def setup(self) -> None:
        self.drop_path = self.drop()

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, height, width, channels) to (batch, height / stride, width / stride, expansion · features)."""
        skip, residual = self.branches(x, train)
        y = skip + self.drop_path(residual, train)
        return y if self.pre_activation else nn.relu(y)


class BasicBlock(ResidualBlock):
    """relu(x + F(x)), F two 3×3 convolutions (He 2015, figure 5, left)."""

    def setup(self) -> None:
        super().setup()
        normed = partial(conv_norm, self.conv, self.norm, self.folded)
        self.conv1, self.bn1 = normed(self.features, 3, self.stride)
        self.conv2, self.bn2 = normed(self.features, 3, scale_init=zeros if self.zero_init else ones)
        self.downsample = normed(self.channels, 1, self.stride)

    def branches(self, x: jax.Array, train: bool = False) -> tuple[jax.Array | float, jax.Array]:
        """The shortcut of x and the residual F(x), before they are added."""
        y = nn.relu(self.bn1(self.conv1(x), train))
        y = self.bn2(self.conv2(y), train)
        return projected(self, x, train), y


class Bottleneck(ResidualBlock):
    """The base of bottlenecks: F of 1×1, 3×3 and 1×1 convolutions, and four times as many channels out as `features`.

    Attributes:
        groups, width_per_group: the 3×3 convolution has features · width_per_group / 64 · groups channels in
            `groups` groups (Xie 2017, figure 3c; Zagoruyko 2016 has one wide group).
        bottleneck_stride: the stride is on the 3×3 convolution ("v1.5", torchvision) or on the first 1×1 ("v1", the
            paper).
    """

    groups: int = 1
    width_per_group: int = 64
    bottleneck_stride: str = "v1.5"

    expansion: ClassVar[int] = 4

    @property
    def inner(self) -> int:
        """Channels of the 3×3 convolution."""
        return self.features * self.width_per_group // 64 * self.groups

    @property
    def strides(self) -> tuple[int, int]:
        """The strides of the first 1×1 and of the 3×3 convolution."""
        one_of("bottleneck_stride", self.bottleneck_stride, STRIDES)
        return (1, self.stride) if self.bottleneck_stride == "v1.5" else (self.stride, 1)


class BottleneckBlock(Bottleneck):
    """relu(x + F(x)), F of 1×1, 3×3 and 1×1 convolutions (He 2015, figure 5, right)."""

    def setup(self) -> None:
        super().setup()
        first, second = self.strides
        normed = partial(conv_norm, self.conv, self.norm, self.folded)
        self.conv1, self.bn1 = normed(self.inner, 1, first)
        self.conv2, self.bn2 = normed(self.inner, 3, second, groups=self.groups)
        self.conv3, self.bn3 = normed(self.channels, 1, scale_init=zeros if self.zero_init else ones)
        self.downsample = normed(self.channels, 1, self.stride)

    def branches(self, x: jax.Array, train: bool = False) -> tuple[jax.Array | float, jax.Array]:
        """The shortcut of x and the residual F(x), before they are added."""
        y = nn.relu(self.bn1(self.conv1(x), train))
        y = nn.relu(self.bn2(self.conv2(y), train))
        y = conv_and_norm(self.conv3, self.bn3, y, train)
        return projected(self, x, train), y


def check_block(block: Any) -> None:
    """Raises ValueError unless `block` is a class that `ResNet` can make its stages of."""
    lacking = [name for name in ("branches", "expansion", "pre_activation") if not hasattr(block, name)]
    if not isinstance(block, type) or lacking:
        name = getattr(block, "__name__", repr(block))
        lack = f"lacks {', '.join(lacking)}" if lacking else "is no class"
        raise ValueError(f"block must be a class like resnet_flax.ResidualBlock; {name} {lack}")


def projected(block: Any, x: jax.Array, train: bool) -> jax.Array | float:
    """The shortcut of x; its projection is a strided 1×1 convolution and a BatchNorm (He 2015, section 3.3)."""
    conv, norm = block.downsample
    return shortcut(x, block.shortcut, block.stride, block.channels, lambda x: conv_and_norm(conv, norm, x, train))
