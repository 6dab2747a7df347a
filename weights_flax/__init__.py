"""Weights and models, in and out of files, and what one does with a trained network."""

from weights_flax.archs import ARCHS, FAMILIES, build_model, from_torch, to_torch

__all__ = ["ARCHS", "FAMILIES", "build_model", "from_torch", "to_torch"]
