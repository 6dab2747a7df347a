"""The architectures of both families, under one roof."""

from collections.abc import Callable, Mapping
from typing import Any, get_args

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
        ValueError: no such architecture or option (the nearest is named), or an option's value is not allowed.
    """
    one_of("arch", arch, ARCHS)
    for name in options:
        one_of(f"option of {arch}", name, constructor_options(arch))
    return ARCHS[arch](**options)


def to_torch(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The variables of a network of either family under PyTorch's names."""
    if isinstance(model, densenet_flax.DenseNet):
        return densenet_flax.to_torch(model, variables)
    return resnet_flax.to_torch(model, variables)  # type: ignore[arg-type]


def from_torch(model: nn.Module, tensors: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
    """The inverse of `to_torch`. Raises ValueError where a name or a shape does not fit."""
    if isinstance(model, densenet_flax.DenseNet):
        return densenet_flax.from_torch(model, tensors)
    return resnet_flax.from_torch(model, tensors)  # type: ignore[arg-type]


def constructor_options(arch: str) -> tuple[str, ...]:
    """The keywords that the constructor of `arch` takes."""
    (options,) = get_args(ARCHS[arch].__annotations__["options"])
    return tuple(options.__annotations__)
