"""Residual networks, their plain twins and VGG, as Flax Linen modules: pure functions of explicit state."""

from typing import TYPE_CHECKING

from common_flax import __version__ as __version__
from layers_flax import from_torch as from_torch, to_torch as to_torch
from resnet_flax.archs import *  # noqa: F403  every architecture is public
from resnet_flax.archs import ARCHS as ARCHS, FAMILIES as FAMILIES
from resnet_flax.blocks import (
    BasicBlock as BasicBlock,
    BottleneckBlock as BottleneckBlock,
    ResidualBlock as ResidualBlock,
)
from resnet_flax.deepen import deepen as deepen, deepen_state as deepen_state
from resnet_flax.pre_activation import (
    PreActBasicBlock as PreActBasicBlock,
    PreActBottleneckBlock as PreActBottleneckBlock,
)
from resnet_flax.resnet import PlainNet as PlainNet, ResNet as ResNet
from resnet_flax.scan import stack_blocks as stack_blocks, unstack_blocks as unstack_blocks
from resnet_flax.vgg import VGG as VGG

if not TYPE_CHECKING:  # checkers would take the literal names for all of them
    __all__ = [
        *ARCHS,
        "ARCHS",
        "FAMILIES",
        "VGG",
        "BasicBlock",
        "BottleneckBlock",
        "PlainNet",
        "PreActBasicBlock",
        "PreActBottleneckBlock",
        "ResNet",
        "ResidualBlock",
        "__version__",
        "deepen",
        "deepen_state",
        "from_torch",
        "stack_blocks",
        "to_torch",
        "unstack_blocks",
    ]
