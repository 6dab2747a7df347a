"""The architectures of both families, under one roof."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

import densenet_flax
import resnet_flax
from layers_flax import one_of

FAMILIES: dict[str, tuple[Callable[..., nn.Module], ...]] = {**densenet_flax.FAMILIES, **resnet_flax.FAMILIES}
ARCHS: dict[str, Callable[..., nn.Module]] = {**densenet_flax.ARCHS, **resnet_flax.ARCHS}


def build_model(arch: str, **options: Any) -> nn.Module:
    """The network named `arch`; `options` are its constructor's.

    Raises:
        ValueError: no such architecture (the nearest is named), or an option's value is not allowed.
    """
    one_of("arch", arch, ARCHS)
    return ARCHS[arch](**options)


def to_torch(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The variables of a network of either family under PyTorch's names."""
    if isinstance(model, densenet_flax.DenseNet):
        return densenet_flax.to_torch(model, variables)
    return resnet_flax.to_torch(model, variables)  # type: ignore[arg-type]
