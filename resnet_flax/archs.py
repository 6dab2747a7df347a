"""Every published depth, a function each; `FAMILIES` groups them and `ARCHS` is the table of them all.

Names that torchvision has mean torchvision's networks. Each function takes options as keywords and returns a module
whose class (`ResNet`, `PlainNet`, `VGG`) explains them. A new architecture is one more function here.
"""

from typing import Any, Unpack

from layers_flax.model.architecture import architecture, table_of
from resnet_flax.blocks import BasicBlock, BottleneckBlock
from resnet_flax.pre_activation import PreActBasicBlock, PreActBottleneckBlock
from resnet_flax.resnet import PlainNet, ResNet, ResNetOptions
from resnet_flax.vgg import VGG, VGGOptions

CIFAR: dict[str, Any] = dict(stem_type="cifar", num_classes=10, width=16)


@architecture("ResNet, 224 px")
def resnet18(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-18 for 224 pixels (He 2015, table 1)."""
    return ResNet((2, 2, 2, 2), BasicBlock, **options)


@architecture("ResNet, 224 px")
def resnet34(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-34 for 224 pixels (He 2015, table 1)."""
    return ResNet((3, 4, 6, 3), BasicBlock, **options)


@architecture("ResNet, 224 px")
def resnet50(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50 for 224 pixels (He 2015, table 1)."""
    return ResNet((3, 4, 6, 3), BottleneckBlock, **options)


@architecture("ResNet, 224 px")
def resnet101(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-101 for 224 pixels (He 2015, table 1)."""
    return ResNet((3, 4, 23, 3), BottleneckBlock, **options)


@architecture("ResNet, 224 px")
def resnet152(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-152 for 224 pixels (He 2015, table 1)."""
    return ResNet((3, 8, 36, 3), BottleneckBlock, **options)


@architecture("ResNet v2, 224 px")
def resnet18_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-18 for 224 pixels (He 2016)."""
    return ResNet((2, 2, 2, 2), PreActBasicBlock, **options)


@architecture("ResNet v2, 224 px")
def resnet34_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-34 for 224 pixels (He 2016)."""
    return ResNet((3, 4, 6, 3), PreActBasicBlock, **options)


@architecture("ResNet v2, 224 px")
def resnet50_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-50 for 224 pixels (He 2016)."""
    return ResNet((3, 4, 6, 3), PreActBottleneckBlock, **options)


@architecture("ResNet v2, 224 px")
def resnet101_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-101 for 224 pixels (He 2016)."""
    return ResNet((3, 4, 23, 3), PreActBottleneckBlock, **options)


@architecture("ResNet v2, 224 px")
def resnet152_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-152 for 224 pixels (He 2016)."""
    return ResNet((3, 8, 36, 3), PreActBottleneckBlock, **options)


@architecture("ResNet v2, 224 px")
def resnet200_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-200 for 224 pixels (He 2016)."""
    return ResNet((3, 24, 36, 3), PreActBottleneckBlock, **options)


@architecture("ResNeXt, 224 px", groups=32, width_per_group=4)
def resnext50_32x4d(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNeXt-50, 32 groups of 4 channels (Xie 2017, table 1)."""
    return ResNet((3, 4, 6, 3), BottleneckBlock, **options)


@architecture("ResNeXt, 224 px", groups=32, width_per_group=8)
def resnext101_32x8d(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNeXt-101, 32 groups of 8 channels (Xie 2017, table 1)."""
    return ResNet((3, 4, 23, 3), BottleneckBlock, **options)


@architecture("Wide ResNet", width_per_group=128)
def wide_resnet50_2(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50 with 3×3 convolutions twice as wide (Zagoruyko 2016, table 8)."""
    return ResNet((3, 4, 6, 3), BottleneckBlock, **options)


@architecture("Wide ResNet", width_per_group=128)
def wide_resnet101_2(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-101 with 3×3 convolutions twice as wide (Zagoruyko 2016, table 8)."""
    return ResNet((3, 4, 23, 3), BottleneckBlock, **options)


@architecture("Wide ResNet", **CIFAR | dict(width=160, stem_width=16))
def wide_resnet28_10(**options: Unpack[ResNetOptions]) -> ResNet:
    """WRN-28-10 for 32 pixels: pre-activation blocks ten times as wide (Zagoruyko 2016, table 1)."""
    return ResNet((4,) * 3, PreActBasicBlock, **options)


@architecture("ResNet, 32 px", **CIFAR, shortcut="A")
def resnet20(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-20 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return ResNet((3,) * 3, BasicBlock, **options)


@architecture("ResNet, 32 px", **CIFAR, shortcut="A")
def resnet32(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-32 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return ResNet((5,) * 3, BasicBlock, **options)


@architecture("ResNet, 32 px", **CIFAR, shortcut="A")
def resnet44(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-44 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return ResNet((7,) * 3, BasicBlock, **options)


@architecture("ResNet, 32 px", **CIFAR, shortcut="A")
def resnet56(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-56 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return ResNet((9,) * 3, BasicBlock, **options)


@architecture("ResNet, 32 px", **CIFAR, shortcut="A")
def resnet110(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-110 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return ResNet((18,) * 3, BasicBlock, **options)


@architecture("ResNet, 32 px", **CIFAR, shortcut="A", scan=True)
def resnet1202(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-1202 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2); by default with `scan`."""
    return ResNet((200,) * 3, BasicBlock, **options)


@architecture("ResNet v2, 32 px", **CIFAR, shortcut="A")
def resnet20_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-20 for 32 pixels (He 2016)."""
    return ResNet((3,) * 3, PreActBasicBlock, **options)


@architecture("ResNet v2, 32 px", **CIFAR, shortcut="A")
def resnet56_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-56 for 32 pixels (He 2016)."""
    return ResNet((9,) * 3, PreActBasicBlock, **options)


@architecture("ResNet v2, 32 px", **CIFAR, shortcut="A")
def resnet110_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-110 for 32 pixels (He 2016)."""
    return ResNet((18,) * 3, PreActBasicBlock, **options)


@architecture("ResNet v2, 32 px", **CIFAR)
def resnet164_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-164 of bottlenecks for 32 pixels (He 2016)."""
    return ResNet((18,) * 3, PreActBottleneckBlock, **options)


@architecture("ResNet v2, 32 px", **CIFAR, scan=True)
def resnet1001_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-1001 of bottlenecks for 32 pixels (He 2016); by default with `scan`."""
    return ResNet((111,) * 3, PreActBottleneckBlock, **options)


@architecture("plain")
def plain18(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-18 without its shortcuts (He 2015, table 2)."""
    return PlainNet((2, 2, 2, 2), BasicBlock, **options)


@architecture("plain")
def plain34(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-34 without its shortcuts (He 2015, table 2)."""
    return PlainNet((3, 4, 6, 3), BasicBlock, **options)


@architecture("plain", **CIFAR)
def plain20(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-20 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return PlainNet((3,) * 3, BasicBlock, **options)


@architecture("plain", **CIFAR)
def plain32(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-32 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return PlainNet((5,) * 3, BasicBlock, **options)


@architecture("plain", **CIFAR)
def plain44(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-44 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return PlainNet((7,) * 3, BasicBlock, **options)


@architecture("plain", **CIFAR)
def plain56(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-56 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return PlainNet((9,) * 3, BasicBlock, **options)


@architecture("plain", **CIFAR)
def plain110(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-110 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return PlainNet((18,) * 3, BasicBlock, **options)


@architecture("VGG, 224 px")
def vgg11(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-11 (Simonyan 2015, table 1, A)."""
    return VGG((1, 1, 2, 2, 2), **options)


@architecture("VGG, 224 px")
def vgg11_bn(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-11 with BatchNorm."""
    return VGG((1, 1, 2, 2, 2), batch_norm=True, **options)


@architecture("VGG, 224 px")
def vgg13(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-13 (Simonyan 2015, table 1, B)."""
    return VGG((2, 2, 2, 2, 2), **options)


@architecture("VGG, 224 px")
def vgg13_bn(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-13 with BatchNorm."""
    return VGG((2, 2, 2, 2, 2), batch_norm=True, **options)


@architecture("VGG, 224 px")
def vgg16(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-16 (Simonyan 2015, table 1, D)."""
    return VGG((2, 2, 3, 3, 3), **options)


@architecture("VGG, 224 px")
def vgg16_bn(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-16 with BatchNorm."""
    return VGG((2, 2, 3, 3, 3), batch_norm=True, **options)


@architecture("VGG, 224 px")
def vgg19(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-19 (Simonyan 2015, table 1, E)."""
    return VGG((2, 2, 4, 4, 4), **options)


@architecture("VGG, 224 px")
def vgg19_bn(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-19 with BatchNorm."""
    return VGG((2, 2, 4, 4, 4), batch_norm=True, **options)


ARCHS, FAMILIES = table_of(__name__)
