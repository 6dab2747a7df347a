"""How the site of docs/ is built: python -m sphinx -W --keep-going -b html docs OUT."""

import dataclasses
import inspect
import re
from typing import Any

from flax import linen as nn
from sphinx.application import Sphinx

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
    """Of a network or a layer its own fields, of a tuple its own; a dataclass tells its attributes one by one."""
    if not inspect.isclass(thing):
        return given, returns
    if issubclass(thing, nn.Module):
        fields = [field for field in dataclasses.fields(thing) if field.name not in ("parent", "name")]
        return f"({', '.join(map(field_and_default, fields))})", None
    if issubclass(thing, tuple):
        return f"({', '.join(thing._fields)})", None  # type: ignore[attr-defined]
    return ("", None) if dataclasses.is_dataclass(thing) else (given, returns)


def field_and_default(field: dataclasses.Field) -> str:
    """`width=64`; what has no short name is `…`."""
    if field.default is dataclasses.MISSING:
        return field.name
    default = getattr(field.default, "__name__", None) or repr(field.default)
    return f"{field.name}={default if len(default) < 40 else '…'}"


def skip(app: Sphinx, what: str, name: str, member: Any, skipped: bool, options: Any) -> bool | None:
    """Members are methods and properties of our own, and fields that have a docstring each."""
    if name == "setup" or inspect.isclass(member) or type(member).__name__ == "_tuplegetter":
        return True
    others = callable(member) and getattr(member, "__module__", "").partition(".")[0] not in PACKAGES
    return True if others else None


def plain_text(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Outside of code *, | and a last _ are themselves. An attribute's docstring is text, whatever colons it has."""
    parts = "\n".join(lines).split("`")
    parts[::2] = [re.sub(r"[*|]|_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    lines[:] = "`".join(parts).split("\n")
    if what == "attribute":
        WRITTEN[name] = list(lines)


def as_written(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Gives an attribute its docstring back, behind napoleon."""
    if what == "attribute":
        lines[:] = WRITTEN.pop(name)


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", plain_text, priority=400)
    app.connect("autodoc-process-docstring", as_written, priority=600)
