"""Parts of both families: convolution, BatchNorm, pooling, initialisers, the contract of networks, PyTorch's names."""

from common_flax import __version__
from common_flax.checks import check_images, check_positive, check_rate, one_of
from common_flax.renamed import renamed
from layers_flax.autodiff.backend import target_backend
from layers_flax.autodiff.optimization_barrier import optimization_barrier, separate_gradient
from layers_flax.autodiff.remat import remat
from layers_flax.conv.chunks import folded_logits, in_chunks
from layers_flax.conv.conv import Conv, conv2d
from layers_flax.conv.inference_conv import inference_conv2d
from layers_flax.conv.pointwise import subsample
from layers_flax.model.architecture import NetworkOptions, architecture
from layers_flax.model.counts import count_multiply_adds, count_parameters, multiply_adds_of
from layers_flax.model.network import Network
from layers_flax.model.shapes import image_by_shape, variables_by_shape
from layers_flax.model.torch_names import block_counts, from_torch, to_torch
from layers_flax.model.widening import carry_over, check_deeper
from layers_flax.nn.batch_norm import BatchNorm, Moments, batch_moments
from layers_flax.nn.channel_affine import ScaleShift, check_inference, conv_norm
from layers_flax.nn.dropout import Dropout, DropPath
from layers_flax.nn.linear import Linear
from layers_flax.nn.norm_pool import norm_relu_max_pool
from layers_flax.nn.norm_relu_pointwise import norm_relu_conv
from layers_flax.nn.pointwise_norm import conv_and_norm
from layers_flax.nn.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool
from layers_flax.parameters.initializers import he_normal_fan_in, he_normal_fan_out, torch_linear

__all__ = [
    "BatchNorm",
    "Conv",
    "DropPath",
    "Dropout",
    "Linear",
    "Moments",
    "Network",
    "NetworkOptions",
    "ScaleShift",
    "__version__",
    "adaptive_avg_pool",
    "architecture",
    "avg_pool",
    "batch_moments",
    "block_counts",
    "carry_over",
    "check_deeper",
    "check_images",
    "check_inference",
    "check_positive",
    "check_rate",
    "conv2d",
    "conv_and_norm",
    "conv_norm",
    "count_multiply_adds",
    "count_parameters",
    "folded_logits",
    "from_torch",
    "global_avg_pool",
    "he_normal_fan_in",
    "he_normal_fan_out",
    "image_by_shape",
    "in_chunks",
    "inference_conv2d",
    "max_pool",
    "multiply_adds_of",
    "norm_relu_conv",
    "norm_relu_max_pool",
    "one_of",
    "optimization_barrier",
    "remat",
    "separate_gradient",
    "subsample",
    "target_backend",
    "to_torch",
    "torch_linear",
    "variables_by_shape",
]

__getattr__ = renamed(
    __name__, {"once": optimization_barrier, "forward_conv2d": inference_conv2d, "in_pieces": in_chunks}
)
