"""Every published depth, a function each; `FAMILIES` groups them and `ARCHS` is the table of them all.

Names that torchvision has mean torchvision's networks. Each function takes options as keywords and returns a
`DenseNet`, which documents them.
"""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

from densenet_flax.densenet import DenseNet


class DenseNetOptions(TypedDict, total=False):
    """The keywords of every constructor; `DenseNet` says what they mean."""

    block_sizes: tuple[int, ...]
    growth_rate: int
    num_classes: int
    stem: str
    stem_width: int
    bottleneck_width: int | None
    compression: float
    dropout: float
    remat: bool
    frozen_batch_norm: bool
    running_variance: str
    dtype: Any
    param_dtype: Any
    axis_name: str | None


CIFAR: dict[str, Any] = dict(stem="cifar", num_classes=10)
PLAIN: dict[str, Any] = CIFAR | dict(stem_width=16, bottleneck_width=None, compression=1.0)


def _densenet(block_sizes: tuple[int, ...], options: DenseNetOptions, **defaults: Any) -> DenseNet:
    """The class's keywords: its `stem` is a method, so that the option is `stem_kind` there."""
    merged = {"block_sizes": block_sizes, **defaults, **options}
    return DenseNet(**{"stem_kind" if name == "stem" else name: value for name, value in merged.items()})


def densenet121(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-121, k = 32, for 224 pixels (Huang 2017, table 1)."""
    return _densenet((6, 12, 24, 16), options)


def densenet161(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-161, k = 48, for 224 pixels (Huang 2017, table 1 of the first versions; torchvision)."""
    return _densenet((6, 12, 36, 24), options, growth_rate=48)


def densenet169(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-169, k = 32, for 224 pixels (Huang 2017, table 1)."""
    return _densenet((6, 12, 32, 32), options)


def densenet201(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-201, k = 32, for 224 pixels (Huang 2017, table 1)."""
    return _densenet((6, 12, 48, 32), options)


def densenet264(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-264, k = 32, for 224 pixels (Huang 2017, table 1)."""
    return _densenet((6, 12, 64, 48), options)


def densenet_40_12(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """40 layers, k = 12, for 32 pixels, no bottleneck, no compression (Huang 2017, table 2)."""
    return _densenet((12, 12, 12), options, growth_rate=12, **PLAIN)


def densenet_100_12(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """100 layers, k = 12, for 32 pixels, no bottleneck, no compression (Huang 2017, table 2)."""
    return _densenet((32, 32, 32), options, growth_rate=12, **PLAIN)


def densenet_100_24(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """100 layers, k = 24, for 32 pixels, no bottleneck, no compression (Huang 2017, table 2)."""
    return _densenet((32, 32, 32), options, growth_rate=24, **PLAIN)


def densenet_bc_40_12(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-BC of 40 layers, k = 12, for 32 pixels: bottlenecks and compression (Huang 2017, section 3)."""
    return _densenet((6, 6, 6), options, growth_rate=12, **CIFAR)


def densenet_bc_100_12(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-BC of 100 layers, k = 12, for 32 pixels (Huang 2017, table 2)."""
    return _densenet((16, 16, 16), options, growth_rate=12, **CIFAR)


def densenet_bc_250_24(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-BC of 250 layers, k = 24, for 32 pixels (Huang 2017, table 2)."""
    return _densenet((41, 41, 41), options, growth_rate=24, **CIFAR)


def densenet_bc_190_40(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-BC of 190 layers, k = 40, for 32 pixels (Huang 2017, table 2)."""
    return _densenet((31, 31, 31), options, growth_rate=40, **CIFAR)


FAMILIES: dict[str, tuple[Callable[..., DenseNet], ...]] = {
    "DenseNet, 224 px": (densenet121, densenet161, densenet169, densenet201, densenet264),
    "DenseNet, 32 px": (densenet_40_12, densenet_100_12, densenet_100_24),
    "DenseNet-BC, 32 px": (densenet_bc_40_12, densenet_bc_100_12, densenet_bc_250_24, densenet_bc_190_40),
}

ARCHS: dict[str, Callable[..., DenseNet]] = {arch.__name__: arch for family in FAMILIES.values() for arch in family}
