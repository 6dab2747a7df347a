"""Dataclasses of options as --help shows them: in groups, and without "(default: None)"."""

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from tyro.conf import OmitArgPrefixes, arg

Groups = Mapping[str, Sequence[str]]
OTHER = "other"  # the group of options that no group names


def shown_type(kind: Any, groups: Groups | None = None) -> Any:
    """Makes the type that tyro reads in place of a dataclass of options; `as_asked` turns its instances back.

    Args:
        kind: a dataclass, whose fields have docstrings below them; or a union of dataclasses, one for each subcommand.
        groups: titles, and the names of the options below each; None leaves all in one group.
    """
    if get_origin(kind) is Annotated:
        inner, *about = get_args(kind)
        return Annotated[(shown_type(inner), *about)]
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(map(shown_type, get_args(kind)))]  # noqa: UP007
    texts = _texts(kind)
    options = {option.name: _shown(option, texts) for option in fields(kind)}
    if groups is None:
        return _made(kind.__name__, options, stands_for=kind, bases=(kind,), __doc__=inspect.getdoc(kind))
    named = {name for names in groups.values() for name in names}
    parts = {}
    for title, names in {**groups, OTHER: [name for name in options if name not in named]}.items():
        if present := {name: options[name] for name in names if name in options}:
            part = _made(title, present, stands_for=None, __doc__="")
            parts[title] = Annotated[part, OmitArgPrefixes], field()
    return _made(kind.__name__, parts, stands_for=kind, __doc__="")


def as_asked(parsed: Any) -> Any:
    """Returns the instance of the type that was given to `shown_type`."""
    values: dict[str, Any] = {}
    for part in fields(parsed):
        value = getattr(parsed, part.name)
        in_group = hasattr(type(value), "stands_for")
        values |= {each.name: getattr(value, each.name) for each in fields(value)} if in_group else {part.name: value}
    return type(parsed).stands_for(**values)


def _shown(option: "Field[Any]", texts: Mapping[str, str]) -> tuple[Any, Any]:
    """Returns the type of an option with its help, and its default."""
    kind, *own = get_args(option.type) if get_origin(option.type) is Annotated else (option.type,)
    about = arg(help=texts.get(option.name), help_behavior_hint=_default)
    default: Any = {name: getattr(option, name) for name in ("default", "default_factory")}
    return Annotated[(kind, about, *own)], field(**default)


def _default(value: str) -> str:
    """Returns the words on a default; none if it is None or empty, since the help says what holds then."""
    return f"(default: {value})" if value not in ("None", "") else ""


def _made(name: str, members: Mapping[str, tuple[Any, Any]], bases: tuple[type, ...] = (), **about: Any) -> Any:
    options = [(member, *kind_and_default) for member, kind_and_default in members.items()]
    return make_dataclass(name, options, bases=bases, frozen=True, kw_only=True, namespace=about)


def _texts(kind: type[Any]) -> dict[str, str]:
    """Returns the docstring below each field of a dataclass, and below those that it inherits."""
    texts: dict[str, str] = {}
    for base in reversed([each for each in kind.__mro__ if is_dataclass(each)]):
        try:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except OSError:  # made at run time
            continue
        lines = getattr(definition, "body", [])
        for option, below in pairwise(lines):
            match option, below:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    texts[name] = " ".join(text.split())
    return texts
