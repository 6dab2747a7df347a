"""Reading, writing and export of weights and models, and tools that look inside a trained network."""

from common_flax import __version__
from layers_flax import from_torch, to_torch
from weights_flax.export.export import export
from weights_flax.export.fold import fold_batch_norm
from weights_flax.export.metadata import ExportCard, read_export_card
from weights_flax.io.archs import ARCHS, FAMILIES, build_model
from weights_flax.io.load import LoadedModel, load_model, load_weights, read_card
from weights_flax.io.save import save_weights
from weights_flax.look.activation_maps import class_activation_map, grad_cam
from weights_flax.look.features import FeatureInfo, feature_info, features
from weights_flax.look.pictures import draw_activation_maps, draw_filters
from weights_flax.look.summary import summary

__all__ = [
    "ARCHS",
    "FAMILIES",
    "ExportCard",
    "FeatureInfo",
    "LoadedModel",
    "__version__",
    "build_model",
    "class_activation_map",
    "draw_activation_maps",
    "draw_filters",
    "export",
    "feature_info",
    "features",
    "fold_batch_norm",
    "from_torch",
    "grad_cam",
    "load_model",
    "load_weights",
    "read_card",
    "read_export_card",
    "save_weights",
    "summary",
    "to_torch",
]
