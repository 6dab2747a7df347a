"""Settings of the site of docs/: python -m sphinx -W --keep-going -b html docs OUT."""

import dataclasses
import inspect
import re
from typing import Any

from flax import linen as nn
from sphinx.application import Sphinx

from weights_flax import ARCHS

PACKAGES = ("layers_flax", "resnet_flax", "densenet_flax", "weights_flax", "training_flax", "theory_flax")

project = "resnet-densenet-flax"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "ResNet and DenseNet in JAX"
html_copy_source = False

myst_heading_anchors = 4  # as a code host makes them, so that the same links lead there

default_role = "code"  # `x` in a docstring is code, as in Markdown
napoleon_use_param = False  # "mean, std: …" is one entry of two names
napoleon_custom_sections = [("Attributes", "params_style"), "Returns"]  # a colon in Returns ends no type
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and types are in the docstrings
python_maximum_signature_line_length = 100

WRITTEN: dict[str, list[str]] = {}


def signature(app: Sphinx, what: str, name: str, thing: Any, options: Any, given: str, returns: str) -> Any:
    """Shows the fields of networks, layers and tuples, and the options of architectures with their types."""
    if what == "function" and ARCHS.get(name.rpartition(".")[2]) is thing:
        return f"({', '.join(map(typed, inspect.signature(thing).parameters.values()))})", None
    if not inspect.isclass(thing):
        return given, returns
    if issubclass(thing, nn.Module):
        fields = [field for field in dataclasses.fields(thing) if field.name not in ("parent", "name")]
        return f"({', '.join(map(field_and_default, fields))})", None
    if issubclass(thing, tuple):
        return f"({', '.join(thing._fields)})", None  # type: ignore[attr-defined]
    return ("", None) if dataclasses.is_dataclass(thing) else (given, returns)


def typed(option: inspect.Parameter) -> str:
    """`width: int = 64`."""
    default = getattr(option.default, "__name__", None) or repr(option.default)
    return f"{option.name}: {inspect.formatannotation(option.annotation).removeprefix('typing.')} = {default}"


def field_and_default(field: dataclasses.Field) -> str:
    """`width=64`; a long default is `…`."""
    if field.default is dataclasses.MISSING:
        return field.name
    default = getattr(field.default, "__name__", None) or repr(field.default)
    return f"{field.name}={default if len(default) < 40 else '…'}"


def skip(app: Sphinx, what: str, name: str, member: Any, skipped: bool, options: Any) -> bool | None:
    """Keeps methods and properties of our own, and fields with a docstring each."""
    if name == "setup" or inspect.isclass(member) or type(member).__name__ == "_tuplegetter":
        return True
    others = callable(member) and getattr(member, "__module__", "").partition(".")[0] not in PACKAGES
    return True if others else None


def plain_text(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escapes *, | and a last _ outside of code, and keeps attributes' docstrings as they are before napoleon."""
    parts = "\n".join(lines).split("`")
    parts[::2] = [re.sub(r"[*|]|_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    lines[:] = "`".join(parts).split("\n")
    if what == "attribute":
        WRITTEN[name] = list(lines)


def as_written(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Restores an attribute's docstring after napoleon."""
    if what == "attribute":
        lines[:] = WRITTEN.pop(name)


def setup(app: Sphinx) -> None:
    """Connects the functions above; Sphinx calls this."""
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", plain_text, priority=400)
    app.connect("autodoc-process-docstring", as_written, priority=600)
