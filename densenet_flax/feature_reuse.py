"""Feature reuse: sizes of the weights by which a DenseNet's layers read earlier ones (Huang 2017, figure 5)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from densenet_flax.densenet import DenseNet


def feature_reuse(model: DenseNet, variables: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """The average absolute weight between every two layers of each dense block (Huang 2017, section 5).

    A layer reads the concatenation of a block's features by its first kernel: the 1×1 convolution of a bottleneck, the
    3×3 convolution without one, the 1×1 convolution of a transition, or the matrix of the classifier. The weights of
    that kernel that read the channels of source s are averaged in absolute value: their L1 norm is divided by the
    number of s's feature maps, of the kernel's taps and of its outputs. (The figure's caption divides by the feature
    maps; taps and outputs are the same for all sources of a layer. The paper's colours run from 0 to 1: they divide a
    layer's values by its largest.)

    Args:
        model: a `DenseNet`.
        variables: {"params", …} of it.

    Returns:
        For each dense block of L layers a float64 array (L + 1, L + 1): [s, l - 1] is of source s in the weights of
        layer l. Source 0 is the block's input; target L + 1 is the transition behind the block, or the classifier.
        Without a connection, s >= l, the value is nan.

    Raises:
        ValueError: the model is no DenseNet, or the variables are not its own.
    """
    if not isinstance(model, DenseNet):
        raise ValueError(f"features are reused in a DenseNet; {type(model).__name__} concatenates none")
    return tuple(_block(model, variables, index) for index in range(len(model.block_sizes)))


def _block(model: DenseNet, variables: Mapping[str, Any], index: int) -> np.ndarray:
    size, growth = model.block_sizes[index], model.growth_rate
    last = index == len(model.block_sizes) - 1
    behind = ("classifier",) if last else (f"transition{index + 1}", "conv")
    readers = [(f"denseblock{index + 1}", f"denselayer{layer + 1}", "conv1") for layer in range(size)] + [behind]
    kernels = [_kernel(variables, reader) for reader in readers]
    inputs = kernels[-1].shape[-2] - size * growth
    weights = np.full((size + 1, size + 1), np.nan)
    for target, (reader, kernel) in enumerate(zip(readers, kernels, strict=True)):
        if inputs < 1 or kernel.shape[-2] != inputs + target * growth:
            raise ValueError(f"the variables are not the model's: {'/'.join(reader)} has shape {kernel.shape}")
        of_channel = np.abs(kernel).mean(tuple(axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2))
        parts = np.split(of_channel, inputs + growth * np.arange(target))
        weights[: target + 1, target] = [part.mean() for part in parts]
    return weights


def _kernel(variables: Mapping[str, Any], path: tuple[str, ...]) -> np.ndarray:
    kernel = flatten_dict(variables.get("params", {})).get((*path, "kernel"))
    if kernel is None:
        raise ValueError(f"the variables are not the model's: they have no {'/'.join(path)}")
    return np.asarray(kernel, np.float64)
