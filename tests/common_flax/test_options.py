"""Command lines as --help shows them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Union

import pytest
from tyro.conf import Positional, arg, subcommand

from common_flax.command_line import parse_options


@dataclass(frozen=True)
class Base:
    name: str
    """The name of it, which
    is long."""
    size: int | None = None
    """The size. Left out, that of the name."""
    tags: tuple[str, ...] = ()
    """Words."""


@dataclass(frozen=True)
class Kind(Base):
    """Several options."""

    folder: Path = Path("runs")
    """The folder."""
    new: Annotated[bool, arg(name="fresh")] = False
    """Begin anew."""
    words: Positional[tuple[str, ...]] = ()
    """More words."""


@dataclass(frozen=True)
class Second:
    """Another command."""

    rate: float | None = None
    """The rate."""


def helped(capsys, kind, *arguments, **options):
    with pytest.raises(SystemExit) as stopped:
        parse_options(kind, [*arguments, "--help"], prog="command", description="", **options)
    assert not stopped.value.code
    return capsys.readouterr().out


GROUPS = {"first": ("size", "name"), "second": ("folder", "absent")}


@pytest.mark.parametrize("groups", [None, {"one": ("name", "size", "tags", "folder", "new", "words")}, GROUPS])
def test_groups_change_nothing_that_is_read(groups):
    options = parse_options(
        Kind, ["a", "b", "--name", "n", "--fresh", "--size", "3"], prog="command", description="", groups=groups
    )
    assert options == Kind("n", 3, (), Path("runs"), True, ("a", "b"))
    assert type(options) is Kind
    with pytest.raises(ValueError, match=r"^Unrecognized options: --sise, 3; did you mean '--size'"):
        parse_options(Kind, ["--name", "n", "--sise", "3"], prog="command", description="", groups=groups)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_help_has_all_texts_and_no_default_of_none(groups, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = " ".join(helped(capsys, Kind, groups=groups).split())
    assert "default: None" not in text and "(default: )" not in text
    for shown in ("The name of it, which is long. (required)", "The size. Left out, that of the name."):
        assert shown in text
    for shown in ("Words.", "The folder. (default: runs)", "Begin anew. (default: False)", "--fresh"):
        assert shown in text
    assert "More words." in text


def test_groups_have_their_options_in_the_order_of_the_table_and_the_rest_is_in_another(capsys):
    text = helped(capsys, Kind, groups=GROUPS)
    titles = ["positional arguments", "options", "first options", "second options", "other options"]
    found = re.findall(rf"^\W*({'|'.join(titles)})\W*$|^\W+(--\w+)", text, re.MULTILINE)
    lines = [title or option for title, option in found]
    expected = [*titles[:3], "--size", "--name", titles[3], "--folder", titles[4], "--tags", "--fresh"]
    assert lines == expected


def test_each_of_several_commands_keeps_its_class_and_its_words(capsys):
    kinds = Kind | Second
    options = parse_options(kinds, ["second", "--rate", "2"], prog="command", description="")
    assert options == Second(2.0) and type(options) is Second
    assert "The rate." in helped(capsys, kinds, "second")
    assert "default: None" not in helped(capsys, kinds, "second")
    named = Union[Annotated[Kind, subcommand("one")], Annotated[Second, subcommand("two", description="Of rates.")]]  # noqa: UP007
    assert parse_options(named, ["two"], prog="command", description="") == Second()
    assert "Of rates." in helped(capsys, named, "two")
