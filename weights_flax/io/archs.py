"""The architectures of every family under one roof."""

from dataclasses import fields
from typing import Any

from flax import linen as nn

import densenet_flax  # noqa: F401  enters its architectures into the table
import resnet_flax  # noqa: F401
from common_flax.checks import one_of
from layers_flax import Network
from layers_flax.model.architecture import ARCHS, FAMILIES, constructor_options

__all__ = ["ARCHS", "FAMILIES", "SILENT", "build_model", "constructor_options", "describe", "published_size"]

# Options that change what a network computes, but no name and no shape of its weights.
SILENT = ("shortcut", "padding", "bottleneck_stride")
NOT_SAID = ("parent", "name", "num_classes", "dtype", "param_dtype", "axis_name")


def build_model(arch: str, **options: Any) -> Network:
    """The network named `arch`; `options` are its constructor's.

    Raises:
        ValueError: no such architecture or option (the nearest is named), or an option's value is not allowed.
    """
    one_of("arch", arch, ARCHS)
    return ARCHS[arch](**options)


def published_size(model: nn.Module) -> int:
    """Pixels of a side of the images that a network was published for: 32 with a stem for small ones, else 224."""
    return model.published_size if isinstance(model, Network) else 224


def describe(model: nn.Module) -> tuple[str | None, dict[str, Any]]:
    """The architecture of a network, and the options in which it differs from the constructor's defaults.

    Types, mapped axes and the number of classes are not among the options. The architecture is None where no
    constructor makes such a network.
    """
    candidates: list[tuple[str, dict[str, Any]]] = []
    for arch, constructor in ARCHS.items():
        default = constructor()
        if type(default) is not type(model):
            continue
        names = [field.name for field in fields(model) if field.name not in NOT_SAID]
        options = {name: value for name in names if (value := getattr(model, name)) != getattr(default, name)}
        if options.keys() <= set(constructor_options(arch)):
            candidates.append((arch, options))
    return min(candidates, key=lambda pair: len(pair[1]), default=(None, {}))


def silent_options(model: nn.Module) -> dict[str, Any]:
    """Options of `SILENT` in which a network differs from its class's defaults, but shortcuts, which shapes show."""
    defaults = {field.name: field.default for field in fields(model)}
    names = [name for name in SILENT if name in defaults and name != "shortcut"]
    return {name: value for name in names if (value := getattr(model, name)) != defaults[name]}
