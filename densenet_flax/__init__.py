"""Densely connected networks, as Flax Linen modules: pure functions of explicit state."""

from common_flax import __version__
from densenet_flax.archs import (
    ARCHS,
    FAMILIES,
    densenet121,
    densenet161,
    densenet169,
    densenet201,
    densenet264,
    densenet_40_12,
    densenet_100_12,
    densenet_100_24,
    densenet_bc_40_12,
    densenet_bc_100_12,
    densenet_bc_190_40,
    densenet_bc_250_24,
)
from densenet_flax.blocks import DenseBlock, DenseLayer, Transition
from densenet_flax.deepen import deepen, deepen_state
from densenet_flax.densenet import DenseNet
from densenet_flax.feature_reuse import feature_reuse
from layers_flax import from_torch, to_torch

__all__ = [
    "ARCHS",
    "FAMILIES",
    "DenseBlock",
    "DenseLayer",
    "DenseNet",
    "Transition",
    "__version__",
    "deepen",
    "deepen_state",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "densenet264",
    "densenet_40_12",
    "densenet_100_12",
    "densenet_100_24",
    "densenet_bc_40_12",
    "densenet_bc_100_12",
    "densenet_bc_190_40",
    "densenet_bc_250_24",
    "feature_reuse",
    "from_torch",
    "to_torch",
]
