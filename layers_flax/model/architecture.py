"""The table of architectures. A decorator on a function enters it there, and shows its options in its signature."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial, wraps
from inspect import Parameter
from typing import Any, TypedDict, TypeVar, get_args, get_type_hints

from common_flax.checks import one_of
from common_flax.renamed import renamed_keyword
from layers_flax.model.network import Network

Constructor = TypeVar("Constructor", bound=Callable[..., Network])

ARCHS: dict[str, Callable[..., Network]] = {}
"""Constructors by name, of every family that has been imported."""

FAMILIES: dict[str, tuple[Callable[..., Network], ...]] = {}
"""The same constructors, grouped as the papers group them."""


class NetworkOptions(TypedDict, total=False):
    """Keywords of every constructor; `layers_flax.Network` explains them."""

    num_classes: int
    frozen_batch_norm: bool
    running_variance: str
    dtype: Any
    param_dtype: Any
    axis_name: str | None


class UnknownOption(TypeError, ValueError):
    """A keyword that a constructor lacks: a TypeError as of any function, a ValueError as of any check."""


def architecture(family: str, **defaults: Any) -> Callable[[Constructor], Constructor]:
    """A decorator that enters a constructor into `ARCHS`, by its name, and into `FAMILIES`::

        @architecture("ResNet, 32 px", stem_type="cifar", num_classes=10)
        def resnet20(**options: Unpack[ResNetOptions]) -> ResNet:
            return ResNet((3, 3, 3), BasicBlock, **options)

    The function receives its defaults and the caller's options together. The constructor's signature lists each option
    of the `TypedDict` with its type and its default: from here, or else from the class of the network.

    Args:
        family: title of the group.
        **defaults: values of options that differ from the defaults of the class.

    Raises:
        ValueError: another module has an architecture of this name.
        UnknownOption: the network has no such option; the message names the nearest. The constructor raises it too.
    """

    if not isinstance(family, str):
        raise TypeError("architecture needs the title of a group: @architecture('My networks')")

    def enter(function: Constructor) -> Constructor:
        name, hints = function.__name__, get_type_hints(function)
        if not {"options", "return"} <= hints.keys():
            raise TypeError(f"{name} must take **options: Unpack[…], and name the class of its network after ->")
        if name in ARCHS and ARCHS[name].__module__ != function.__module__:
            raise ValueError(f"arch {name!r} exists already, in {ARCHS[name].__module__}; choose another name")
        options = get_type_hints(*get_args(hints["options"]))
        for option in defaults:
            _check(name, option, options)
        values = {field.name: field.default for field in fields(hints["return"]) if field.default is not MISSING}
        values |= defaults

        @wraps(function)
        def construct(**given: Any) -> Network:
            for option in given:
                _check(name, option, options)
            return function(**{**defaults, **given})

        made: Any = construct
        if "stem_type" in options:
            made = renamed_keyword(construct, stem="stem_type", stem_kind="stem_type")
        keyword = partial(Parameter, kind=Parameter.KEYWORD_ONLY)
        shown = [keyword(k, default=values.get(k, Parameter.empty), annotation=t) for k, t in options.items()]
        made.__signature__ = inspect.Signature(shown, return_annotation=hints["return"])
        ARCHS[name] = made
        FAMILIES[family] = (*[each for each in FAMILIES.get(family, ()) if each.__name__ != name], made)
        return made

    return enter


def table_of(module: str) -> tuple[dict[str, Callable[..., Network]], dict[str, tuple[Callable[..., Network], ...]]]:
    """`ARCHS` and `FAMILIES` of the constructors in one module."""
    archs = {name: arch for name, arch in ARCHS.items() if arch.__module__ == module}
    return archs, {family: made for family, made in FAMILIES.items() if {each.__name__ for each in made} & set(archs)}


def constructor_options(arch: str) -> tuple[str, ...]:
    """The keywords of the constructor of `arch`."""
    return tuple(inspect.signature(ARCHS[arch]).parameters)


def _check(arch: str, option: str, options: Any) -> None:
    if option in ("pretrained", "weights"):
        raise UnknownOption(
            f"{arch} has no option {option!r}: it makes a network without values; weights_flax.load_model(FILE) or "
            "load_weights(model, FILE) reads them from a file or a hub, see docs/weights.md"
        )
    try:
        one_of(f"option of {arch}", option, options)
    except ValueError as error:
        raise UnknownOption(str(error)) from None
