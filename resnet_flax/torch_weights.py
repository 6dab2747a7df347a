"""Variables of ResNets, plain networks and VGGs from and to PyTorch state dicts, under torchvision's names.

Modules in a list, `layer1_0` or `features_3` here, are `layer1.0` and `features.3` there. What torchvision has not,
the pre-activation networks, follows the same rule.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from layers_flax import variables_from_torch, variables_to_torch
from resnet_flax.resnet import ResNet
from resnet_flax.vgg import VGG


def from_torch(model: ResNet | VGG, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of `model` with the values of a PyTorch state dict.

    Args:
        model: any network of this package.
        state_dict: torchvision's names, with or without a `module.` prefix, to NumPy arrays or tensors.

    Returns:
        {"params", "batch_stats"}, leaves NumPy arrays of the state dict's own types.

    Raises:
        ValueError: entries are missing, unused or misshapen; all are named.
    """
    first_conv = "features.0.weight" if isinstance(model, VGG) else "conv1.weight"
    return variables_from_torch(model, state_dict, module_name, first_conv)


def to_torch(model: ResNet | VGG, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The exact inverse of `from_torch`: PyTorch's names to NumPy arrays.

    Args:
        model: any network of this package.
        variables: what `from_torch` or `init` gave, a part of it (`{"batch_stats": …}` as `apply` updates it), or
            a tree of the same shape, such as gradients with respect to the parameters.

    Raises:
        ValueError: an entry that no PyTorch name belongs to.
    """
    del model  # one rule names the modules of them all
    return variables_to_torch(variables, module_name)


def module_name(path: tuple[str, ...]) -> str:
    """PyTorch's name of the module at `path`."""
    return ".".join(re.sub(r"_(\d+)$", r".\1", module) for module in path)
