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

from layers_flax import conv_norm
from layers_flax.parameters.initializers import zeros
from resnet_flax.blocks import Bottleneck, ResidualBlock
from resnet_flax.shortcut import keeps_shape, shortcut


class PreActBasicBlock(ResidualBlock):
    """x + F(x), F twice BatchNorm, ReLU and a 3×3 convolution (He 2016, figure 4e).

    With `zero_init` F's last convolution starts at zero. (Its last scale would be dead at zero: the ReLU that follows
    has no gradient there.)

    Attributes:
        activated: the stem has normalised and activated the input already.
    """

    activated: bool = False

    pre_activation: ClassVar[bool] = True

    def setup(self) -> None:
        super().setup()
        self.bn1 = self.norm()
        self.conv1, self.bn2 = conv_norm(self.conv, self.norm, self.folded, self.features, 3, self.stride)
        self.conv2 = last_conv(self.conv, self.zero_init)(self.features, 3)
        self.downsample = [self.conv(self.channels, 1, self.stride)]

    def branches(self, x: jax.Array, train: bool = False) -> tuple[jax.Array | float, jax.Array]:
        """The shortcut of x and the residual F(x), before they are added."""
        y = active = x if self.activated else nn.relu(self.bn1(x, train))
        y = self.conv2(nn.relu(self.bn2(self.conv1(y), train)))
        return skip_of(self, x, active), y


class PreActBottleneckBlock(Bottleneck):
    """x + F(x), F three times BatchNorm, ReLU and a convolution: 1×1, 3×3, 1×1 (He 2016, section 4.1).

    Attributes:
        activated: as in `PreActBasicBlock`.
    """

    activated: bool = False

    pre_activation: ClassVar[bool] = True

    def setup(self) -> None:
        super().setup()
        first, second = self.strides
        normed = partial(conv_norm, self.conv, self.norm, self.folded)
        self.bn1 = self.norm()
        self.conv1, self.bn2 = normed(self.inner, 1, first)
        self.conv2, self.bn3 = normed(self.inner, 3, second, groups=self.groups)
        self.conv3 = last_conv(self.conv, self.zero_init)(self.channels, 1)
        self.downsample = [self.conv(self.channels, 1, self.stride)]

    def branches(self, x: jax.Array, train: bool = False) -> tuple[jax.Array | float, jax.Array]:
        """The shortcut of x and the residual F(x), before they are added."""
        y = active = x if self.activated else nn.relu(self.bn1(x, train))
        y = nn.relu(self.bn2(self.conv1(y), train))
        y = self.conv3(nn.relu(self.bn3(self.conv2(y), train)))
        return skip_of(self, x, active), y


def skip_of(block: Any, x: jax.Array, active: jax.Array) -> jax.Array | float:
    """The shortcut: from x where it is the identity, from the activated x where it has to change it."""
    identity = keeps_shape(x, block.stride, block.channels) and block.shortcut != "C"
    return shortcut(x if identity else active, block.shortcut, block.stride, block.channels, block.downsample[0])


def last_conv(conv: Callable[..., Any], zero_init: bool) -> Callable[..., Any]:
    """The maker of a branch's last convolution."""
    return partial(conv, kernel_init=zeros) if zero_init else conv
