"""Every published depth, a function each; `FAMILIES` groups them and `ARCHS` is the table of them all.

Names that torchvision has mean torchvision's networks. Each function takes options as keywords and returns a
`DenseNet`, which explains them. A new architecture is one more function here.
"""

from typing import Any, Unpack

from densenet_flax.densenet import DenseNet, DenseNetOptions
from layers_flax.model.architecture import architecture, table_of

CIFAR: dict[str, Any] = dict(stem_type="cifar", num_classes=10)
PLAIN: dict[str, Any] = CIFAR | dict(stem_width=16, bottleneck_width=None, compression=1.0)


@architecture("DenseNet, 224 px", block_sizes=(6, 12, 24, 16))
def densenet121(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-121, k = 32, for 224 pixels (Huang 2017, table 1)."""
    return DenseNet(**options)


@architecture("DenseNet, 224 px", block_sizes=(6, 12, 36, 24), growth_rate=48)
def densenet161(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-161, k = 48, for 224 pixels (Huang 2017, table 1 of the first versions; torchvision)."""
    return DenseNet(**options)


@architecture("DenseNet, 224 px", block_sizes=(6, 12, 32, 32))
def densenet169(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-169, k = 32, for 224 pixels (Huang 2017, table 1)."""
    return DenseNet(**options)


@architecture("DenseNet, 224 px", block_sizes=(6, 12, 48, 32))
def densenet201(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-201, k = 32, for 224 pixels (Huang 2017, table 1)."""
    return DenseNet(**options)


@architecture("DenseNet, 224 px", block_sizes=(6, 12, 64, 48))
def densenet264(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-264, k = 32, for 224 pixels (Huang 2017, table 1)."""
    return DenseNet(**options)


@architecture("DenseNet, 32 px", block_sizes=(12, 12, 12), growth_rate=12, **PLAIN)
def densenet_40_12(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """40 layers, k = 12, for 32 pixels, no bottleneck, no compression (Huang 2017, table 2)."""
    return DenseNet(**options)


@architecture("DenseNet, 32 px", block_sizes=(32, 32, 32), growth_rate=12, **PLAIN)
def densenet_100_12(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """100 layers, k = 12, for 32 pixels, no bottleneck, no compression (Huang 2017, table 2)."""
    return DenseNet(**options)


@architecture("DenseNet, 32 px", block_sizes=(32, 32, 32), growth_rate=24, **PLAIN)
def densenet_100_24(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """100 layers, k = 24, for 32 pixels, no bottleneck, no compression (Huang 2017, table 2)."""
    return DenseNet(**options)


@architecture("DenseNet-BC, 32 px", block_sizes=(6, 6, 6), growth_rate=12, **CIFAR)
def densenet_bc_40_12(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-BC of 40 layers, k = 12, for 32 pixels: bottlenecks and compression (Huang 2017, section 3)."""
    return DenseNet(**options)


@architecture("DenseNet-BC, 32 px", block_sizes=(16, 16, 16), growth_rate=12, **CIFAR)
def densenet_bc_100_12(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-BC of 100 layers, k = 12, for 32 pixels (Huang 2017, table 2)."""
    return DenseNet(**options)


@architecture("DenseNet-BC, 32 px", block_sizes=(41, 41, 41), growth_rate=24, **CIFAR)
def densenet_bc_250_24(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-BC of 250 layers, k = 24, for 32 pixels (Huang 2017, table 2)."""
    return DenseNet(**options)


@architecture("DenseNet-BC, 32 px", block_sizes=(31, 31, 31), growth_rate=40, **CIFAR)
def densenet_bc_190_40(**options: Unpack[DenseNetOptions]) -> DenseNet:
    """DenseNet-BC of 190 layers, k = 40, for 32 pixels (Huang 2017, table 2)."""
    return DenseNet(**options)


ARCHS, FAMILIES = table_of(__name__)
