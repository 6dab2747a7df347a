"""Every published depth, a function each; `FAMILIES` groups them and `ARCHS` is the table of them all.

Names that torchvision has mean torchvision's networks. Each function takes options as keywords and returns a module
whose class (`ResNet`, `PlainNet`, `VGG`) documents them.
"""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

from flax import linen as nn

from resnet_flax.blocks import BasicBlock, BottleneckBlock
from resnet_flax.pre_activation import PreActBasicBlock, PreActBottleneckBlock
from resnet_flax.resnet import PlainNet, ResNet
from resnet_flax.vgg import VGG


class ResNetOptions(TypedDict, total=False):
    """The keywords of every ResNet and plain network; `ResNet` says what they mean."""

    num_classes: int
    stem: str
    shortcut: str | None
    width: int
    stem_width: int
    groups: int
    width_per_group: int
    bottleneck_stride: str
    padding: str
    zero_init: bool
    drop_path: float
    remat: bool
    scan: bool
    frozen_batch_norm: bool
    running_variance: str
    dtype: Any
    param_dtype: Any
    axis_name: str | None


class VGGOptions(TypedDict, total=False):
    """The keywords of every VGG; `VGG` says what they mean."""

    num_classes: int
    width: int
    dropout: float
    frozen_batch_norm: bool
    running_variance: str
    dtype: Any
    param_dtype: Any
    axis_name: str | None


CIFAR: dict[str, Any] = dict(stem="cifar", num_classes=10, width=16)


def _options(options: ResNetOptions, defaults: dict[str, Any]) -> dict[str, Any]:
    """The class's keywords: its `stem` is a method, so that the option is `stem_kind` there."""
    merged = {**defaults, **options}
    return {"stem_kind" if name == "stem" else name: value for name, value in merged.items()}


def _resnet(stage_sizes: tuple[int, ...], block: type[nn.Module], options: ResNetOptions, **defaults: Any) -> ResNet:
    return ResNet(stage_sizes, block, **_options(options, defaults))


def _plain(stage_sizes: tuple[int, ...], options: ResNetOptions, **defaults: Any) -> PlainNet:
    return PlainNet(stage_sizes, BasicBlock, **_options(options, defaults))


def resnet18(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-18 for 224 pixels (He 2015, table 1)."""
    return _resnet((2, 2, 2, 2), BasicBlock, options)


def resnet34(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-34 for 224 pixels (He 2015, table 1)."""
    return _resnet((3, 4, 6, 3), BasicBlock, options)


def resnet50(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50 for 224 pixels (He 2015, table 1)."""
    return _resnet((3, 4, 6, 3), BottleneckBlock, options)


def resnet101(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-101 for 224 pixels (He 2015, table 1)."""
    return _resnet((3, 4, 23, 3), BottleneckBlock, options)


def resnet152(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-152 for 224 pixels (He 2015, table 1)."""
    return _resnet((3, 8, 36, 3), BottleneckBlock, options)


def resnet18_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-18 for 224 pixels (He 2016)."""
    return _resnet((2, 2, 2, 2), PreActBasicBlock, options)


def resnet34_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-34 for 224 pixels (He 2016)."""
    return _resnet((3, 4, 6, 3), PreActBasicBlock, options)


def resnet50_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-50 for 224 pixels (He 2016)."""
    return _resnet((3, 4, 6, 3), PreActBottleneckBlock, options)


def resnet101_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-101 for 224 pixels (He 2016)."""
    return _resnet((3, 4, 23, 3), PreActBottleneckBlock, options)


def resnet152_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-152 for 224 pixels (He 2016)."""
    return _resnet((3, 8, 36, 3), PreActBottleneckBlock, options)


def resnet200_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-200 for 224 pixels (He 2016)."""
    return _resnet((3, 24, 36, 3), PreActBottleneckBlock, options)


def resnext50_32x4d(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNeXt-50, 32 groups of 4 channels (Xie 2017, table 1)."""
    return _resnet((3, 4, 6, 3), BottleneckBlock, options, groups=32, width_per_group=4)


def resnext101_32x8d(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNeXt-101, 32 groups of 8 channels (Xie 2017, table 1)."""
    return _resnet((3, 4, 23, 3), BottleneckBlock, options, groups=32, width_per_group=8)


def wide_resnet50_2(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50 with 3×3 convolutions twice as wide (Zagoruyko 2016, table 8)."""
    return _resnet((3, 4, 6, 3), BottleneckBlock, options, width_per_group=128)


def wide_resnet101_2(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-101 with 3×3 convolutions twice as wide (Zagoruyko 2016, table 8)."""
    return _resnet((3, 4, 23, 3), BottleneckBlock, options, width_per_group=128)


def plain18(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-18 without its shortcuts (He 2015, table 2)."""
    return _plain((2, 2, 2, 2), options)


def plain34(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-34 without its shortcuts (He 2015, table 2)."""
    return _plain((3, 4, 6, 3), options)


def resnet20(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-20 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return _resnet((3,) * 3, BasicBlock, options, **CIFAR, shortcut="A")


def resnet32(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-32 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return _resnet((5,) * 3, BasicBlock, options, **CIFAR, shortcut="A")


def resnet44(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-44 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return _resnet((7,) * 3, BasicBlock, options, **CIFAR, shortcut="A")


def resnet56(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-56 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return _resnet((9,) * 3, BasicBlock, options, **CIFAR, shortcut="A")


def resnet110(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-110 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2)."""
    return _resnet((18,) * 3, BasicBlock, options, **CIFAR, shortcut="A")


def resnet1202(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-1202 for 32 pixels, zero-padding shortcuts (He 2015, section 4.2); by default with `scan`."""
    return _resnet((200,) * 3, BasicBlock, options, **CIFAR, shortcut="A", scan=True)


def resnet20_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-20 for 32 pixels (He 2016)."""
    return _resnet((3,) * 3, PreActBasicBlock, options, **CIFAR, shortcut="A")


def resnet56_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-56 for 32 pixels (He 2016)."""
    return _resnet((9,) * 3, PreActBasicBlock, options, **CIFAR, shortcut="A")


def resnet110_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-110 for 32 pixels (He 2016)."""
    return _resnet((18,) * 3, PreActBasicBlock, options, **CIFAR, shortcut="A")


def resnet164_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-164 of bottlenecks for 32 pixels (He 2016)."""
    return _resnet((18,) * 3, PreActBottleneckBlock, options, **CIFAR)


def resnet1001_v2(**options: Unpack[ResNetOptions]) -> ResNet:
    """Pre-activation ResNet-1001 of bottlenecks for 32 pixels (He 2016); by default with `scan`."""
    return _resnet((111,) * 3, PreActBottleneckBlock, options, **CIFAR, scan=True)


def plain20(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-20 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return _plain((3,) * 3, options, **CIFAR)


def plain32(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-32 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return _plain((5,) * 3, options, **CIFAR)


def plain44(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-44 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return _plain((7,) * 3, options, **CIFAR)


def plain56(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-56 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return _plain((9,) * 3, options, **CIFAR)


def plain110(**options: Unpack[ResNetOptions]) -> PlainNet:
    """ResNet-110 for 32 pixels without its shortcuts (He 2015, section 4.2)."""
    return _plain((18,) * 3, options, **CIFAR)


def wide_resnet28_10(**options: Unpack[ResNetOptions]) -> ResNet:
    """WRN-28-10 for 32 pixels: pre-activation blocks ten times as wide (Zagoruyko 2016, table 1)."""
    return _resnet((4,) * 3, PreActBasicBlock, options, **CIFAR | dict(width=160, stem_width=16))


def vgg11(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-11 (Simonyan 2015, table 1, A)."""
    return VGG((1, 1, 2, 2, 2), **options)


def vgg11_bn(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-11 with BatchNorm."""
    return VGG((1, 1, 2, 2, 2), batch_norm=True, **options)


def vgg13(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-13 (Simonyan 2015, table 1, B)."""
    return VGG((2, 2, 2, 2, 2), **options)


def vgg13_bn(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-13 with BatchNorm."""
    return VGG((2, 2, 2, 2, 2), batch_norm=True, **options)


def vgg16(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-16 (Simonyan 2015, table 1, D)."""
    return VGG((2, 2, 3, 3, 3), **options)


def vgg16_bn(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-16 with BatchNorm."""
    return VGG((2, 2, 3, 3, 3), batch_norm=True, **options)


def vgg19(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-19 (Simonyan 2015, table 1, E)."""
    return VGG((2, 2, 4, 4, 4), **options)


def vgg19_bn(**options: Unpack[VGGOptions]) -> VGG:
    """VGG-19 with BatchNorm."""
    return VGG((2, 2, 4, 4, 4), batch_norm=True, **options)


FAMILIES: dict[str, tuple[Callable[..., nn.Module], ...]] = {
    "ResNet, 224 px": (resnet18, resnet34, resnet50, resnet101, resnet152),
    "ResNet v2, 224 px": (resnet18_v2, resnet34_v2, resnet50_v2, resnet101_v2, resnet152_v2, resnet200_v2),
    "ResNeXt, 224 px": (resnext50_32x4d, resnext101_32x8d),
    "Wide ResNet": (wide_resnet50_2, wide_resnet101_2, wide_resnet28_10),
    "ResNet, 32 px": (resnet20, resnet32, resnet44, resnet56, resnet110, resnet1202),
    "ResNet v2, 32 px": (resnet20_v2, resnet56_v2, resnet110_v2, resnet164_v2, resnet1001_v2),
    "plain": (plain18, plain34, plain20, plain32, plain44, plain56, plain110),
    "VGG, 224 px": (vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn),
}

ARCHS: dict[str, Callable[..., nn.Module]] = {arch.__name__: arch for family in FAMILIES.values() for arch in family}
