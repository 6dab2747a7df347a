"""The architectures of both families, under one roof."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

from flax import linen as nn

import densenet_flax
import resnet_flax
from common_flax.checks import one_of
from layers_flax import Network

FAMILIES: dict[str, tuple[Callable[..., nn.Module], ...]] = {**densenet_flax.FAMILIES, **resnet_flax.FAMILIES}
ARCHS: dict[str, Callable[..., nn.Module]] = {**densenet_flax.ARCHS, **resnet_flax.ARCHS}


NOT_SAID = ("parent", "name", "num_classes", "dtype", "param_dtype", "axis_name")


def build_model(arch: str, **options: Any) -> nn.Module:
    """The network named `arch`; `options` are its constructor's.

    Raises:
        ValueError: no such architecture or option (the nearest is named), or an option's value is not allowed.
    """
    one_of("arch", arch, ARCHS)
    for name in options:
        one_of(f"option of {arch}", name, constructor_options(arch))
    return ARCHS[arch](**options)


def published_size(model: nn.Module) -> int:
    """Pixels of a side of the images that a network was published for: 32 with a stem for small ones, else 224."""
    return model.published_size if isinstance(model, Network) else 224


def describe(model: nn.Module) -> tuple[str | None, dict[str, Any]]:
    """The architecture that a network is, and the options in which it differs from the constructor's defaults.

    Of types, devices and classes nothing is said: they are not what the network computes. The architecture is None
    where no constructor makes such a network.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    for arch, constructor in ARCHS.items():
        default = constructor()
        if type(default) is not type(model):
            continue
        names = [field.name for field in fields(model) if field.name not in NOT_SAID]
        differing = {name: value for name in names if (value := getattr(model, name)) != getattr(default, name)}
        options = {"stem" if name == "stem_kind" else name: value for name, value in differing.items()}
        if all(name in constructor_options(arch) for name in options):
            found.append((arch, options))
    return min(found, key=lambda pair: len(pair[1]), default=(None, {}))


def constructor_options(arch: str) -> tuple[str, ...]:
    """The keywords that the constructor of `arch` takes."""
    (options,) = get_args(ARCHS[arch].__annotations__["options"])
    return tuple(options.__annotations__)
