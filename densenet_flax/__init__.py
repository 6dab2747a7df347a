"""Densely connected networks, as Flax Linen modules: pure functions of explicit state."""

from typing import TYPE_CHECKING

from common_flax import __version__ as __version__
from densenet_flax.archs import *  # noqa: F403  every architecture is public
from densenet_flax.archs import ARCHS as ARCHS, FAMILIES as FAMILIES
from densenet_flax.blocks import DenseBlock as DenseBlock, DenseLayer as DenseLayer, Transition as Transition
from densenet_flax.deepen import deepen as deepen, deepen_state as deepen_state
from densenet_flax.densenet import DenseNet as DenseNet
from densenet_flax.feature_reuse import feature_reuse as feature_reuse
from layers_flax import from_torch as from_torch, to_torch as to_torch

if not TYPE_CHECKING:  # checkers would take the literal names for all of them
    __all__ = [
        *ARCHS,
        "ARCHS",
        "FAMILIES",
        "DenseBlock",
        "DenseLayer",
        "DenseNet",
        "Transition",
        "__version__",
        "deepen",
        "deepen_state",
        "feature_reuse",
        "from_torch",
        "to_torch",
    ]
