"""Weights and models, in and out of files, and what one does with a trained network."""

from weights_flax.archs import ARCHS, FAMILIES, build_model, from_torch, to_torch
from weights_flax.export import export
from weights_flax.fold import fold_batch_norm
from weights_flax.load import LoadedModel, load_model, load_weights, read_card
from weights_flax.save import save_weights

__all__ = [
    "ARCHS",
    "FAMILIES",
    "LoadedModel",
    "build_model",
    "export",
    "fold_batch_norm",
    "from_torch",
    "load_model",
    "load_weights",
    "read_card",
    "save_weights",
    "to_torch",
]
