"""Command lines over frozen dataclasses, which complain in one line on any terminal, with --help in groups."""

import ast
import contextlib
import inspect
import io
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

import tyro
from tyro.conf import OmitArgPrefixes, arg

from common_flax.errors import InLines, out_of_memory
from common_flax.signals import imported, leave, open_standard_streams
from common_flax.terminal import complain, written_out

NUMBERS = ("mean", "std")  # options that take a number for each channel
Numbers = tuple[float, ...]
Options = TypeVar("Options")
Groups = Mapping[str, Sequence[str]]
OTHER = "other"  # the group of options that no group names


def parse_options(
    kind: type[Options], arguments: Sequence[str], *, prog: str, description: str, groups: Groups | None = None
) -> Options:
    """Reads the options of a command line.

    Args:
        kind: a dataclass, whose fields are the options; or a union of dataclasses, one for each subcommand.
        arguments: the words of the command line, without the program; see also `separated`.
        prog, description: the program's name and purpose, for --help.
        groups: titles in --help, and the names of the options below each; None is one group for all.

    Raises:
        ValueError: the command line is wrong; the message is one line.
        SystemExit: help was asked for, and shown.
    """
    words, complaint = separated(arguments), io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), written_out():
            shown, config = shown_type(kind, groups), (tyro.conf.DisallowNone,)
            return as_asked(tyro.cli(shown, prog=prog, description=description, args=words, config=config))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise  # --help
        raise ValueError(_in_one_line(complaint.getvalue())) from None


def separated(arguments: Sequence[str]) -> list[str]:
    """Returns the words of a command line with each number of `NUMBERS` as a word of its own, at the end.

    So `--mean 0.485,0.456,0.406`, `--mean=0.485,0.456,0.406`, `--mean 0.485, 0.456, 0.406` and `--mean 0.485 0.456
    0.406` are one. Numbers with commas end where no comma joins the next word, those with blanks at the first word that
    is no number. At the end they take no word of others, such as an image file behind them. Of an option that is given
    twice the last one holds. Words behind `--` are left as they are.

    Raises:
        ValueError: an option has no numbers.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words, rest, found = list(arguments[:end]), list(arguments[end:]), dict[str, list[str]]()
    kept: list[str] = []
    while words:
        option, equals, value = words.pop(0).partition("=")
        name = option.removeprefix("--")
        if name not in NUMBERS or not option.startswith("--"):
            kept.append(option + equals + value)
            continue
        if equals:
            words.insert(0, value)
        taken: list[str] = []
        while words and _are_numbers(words[0]) and not _complete(taken, words[0]):
            taken.append(words.pop(0))
        if not (numbers := _parts(" ".join(taken))):
            given = repr(words[0]) if words and (equals or not words[0].startswith("--")) else "none"
            raise ValueError(f"{name} must be numbers, with commas or blanks between them; given {given}")
        found[option] = numbers
    for option, numbers in found.items():
        kept += [option, *numbers]
    return kept + rest


def run_command(name: str, command: Callable[[], object], *errors: type[Exception]) -> int:
    """Runs a command and returns its exit code: 2 after an error that the user can correct, 130 after Ctrl-C, else 0.

    That memory ran out is such an error. An error with an attribute `exit_code` has that one.

    Args:
        name: the first word of the line that reports an error.
        command: does all the work, reading of the options included.
        errors: the errors that become one line on stderr, besides ValueError; `InLines` become a few.
    """
    reported: tuple[type[Exception], ...] = (ValueError, *errors)
    try:
        command()
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        return 0
    except reported as error:
        text = error.first if isinstance(error, InLines) else error
        complain(f"{name}: error: {text}")
        for below in error.rest if isinstance(error, InLines) else ():
            complain(below)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        complain(f"{name}: interrupted")
        return 130
    except (MemoryError, RuntimeError, OSError) as error:
        if not (line := out_of_memory(error)):
            raise
        complain(f"{name}: error: {line}")
        return 2
    return 0


def start_command(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs `main` with this process's arguments, and ends the process with the exit code that it returns."""
    imported()
    open_standard_streams()
    write_to_any_terminal()
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # between two lines of `main`
        code = 130
    leave(code)


def write_to_any_terminal() -> None:
    """Makes a terminal that lacks a character, such as × or …, show ? for it; without this the program stops."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _parts(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _are_numbers(word: str) -> bool:
    """True for a number, several with commas between them, or a comma alone."""
    with contextlib.suppress(ValueError):
        return len([float(part) for part in _parts(word)]) > 0 or "," in word
    return False


def _complete(taken: Sequence[str], following: str) -> bool:
    """True if the words that are taken have all their numbers: commas between them, and none to the word behind."""
    text = " ".join(taken)
    return "," in text and not text.endswith(",") and not following.startswith(",")


def _in_one_line(box: str) -> str:
    """Shortens tyro's box of several parts to the complaint and the option that may have been meant."""
    lines = [line.strip(" │╭╮╰╯") for line in box.splitlines()[1:]]  # without the title
    # Lines of dashes stand between the parts; where the terminal knows ASCII alone they are hyphens.
    ruled = "\n".join("\0" if line and not line.strip("─-") else line for line in lines)
    parts = [" ".join(part.split()) for part in ruled.split("\0") if part.strip()]
    complaint = parts[0].split(" Got errors:")[0].rstrip(".")
    meant = next((part.split(": ", 1)[1].split()[0] for part in parts if part.startswith("Perhaps you meant")), None)
    return complaint + (f"; did you mean {meant!r}?" if meant else "")


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
