"""Variables of DenseNets from and to PyTorch state dicts, under torchvision's names."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from densenet_flax.densenet import DenseNet
from layers_flax import variables_from_torch, variables_to_torch


def from_torch(model: DenseNet, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of `model` with the values of a PyTorch state dict.

    Args:
        model: any network of this package.
        state_dict: torchvision's names, with or without a `module.` prefix, to NumPy arrays or tensors. The
            spelling of old files, `denselayer1.norm.1`, is read as `denselayer1.norm1`.

    Returns:
        {"params", "batch_stats"}, leaves NumPy arrays of the state dict's own types.

    Raises:
        ValueError: entries are missing, unused or misshapen; all are named.
    """
    state_dict = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", k): v for k, v in state_dict.items()}
    return variables_from_torch(model, state_dict, module_name, "features.conv0.weight")


def to_torch(model: DenseNet, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The exact inverse of `from_torch`: PyTorch's names, in their present spelling, to NumPy arrays.

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
    return ".".join(path if path[0] == "classifier" else ("features", *path))
