"""JSON that somebody else may have written: read within bounds, and checked against types."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from common_flax.errors import one_line
from common_flax.files import open_regular

MOST_BYTES = 24 << 20  # room for the names of a million classes
MOST_PARTS = 1 << 20  # lists, objects and fields; three bytes of a file make an empty list of 80 bytes
MOST_DIGITS = 20
SHOWN = 60  # characters of a value in an error
# Errors of `msgspec` about fields, and ours.
OF_FIELDS = {
    "Object contains unknown field ": "there is no field {}",
    "Object missing required field ": "the field {} is missing",
}
NAMES = {None: "null", True: "true", False: "false"}
WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
T = TypeVar("T")


def read_object(path: Path) -> dict[str, Any]:
    """Reads a regular file that holds one JSON object.

    Raises:
        ValueError: `'PATH' is damaged: …`, one line with the reason.
        OSError: the file is missing, or cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        return parse_object(data)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from None


def parse_object(data: bytes, *, nan_is_null: bool = False) -> dict[str, Any]:
    """Parses a JSON object of UTF-8.

    Args:
        data: the text.
        nan_is_null: read NaN and Infinity, which are no JSON, as null.

    Raises:
        ValueError: it is something else, a key stands twice, or a number is NaN, infinite or too large.
    """
    if sum(map(data.count, (b"[", b"{", b":"))) > MOST_PARTS:
        raise ValueError(f"it has more than {MOST_PARTS:,} lists, objects and fields")
    try:
        values = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_constant=(lambda text: None) if nan_is_null else _no_number,
            parse_int=_integer,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("its lists or objects are nested too deep") from None
    except ValueError as error:
        raise ValueError(one_line(error)) from None
    if not isinstance(values, dict):
        raise ValueError(f"it must be an object; given {_shown(values)}")
    return values


def typed(values: object, kind: type[T]) -> T:
    """Converts parsed JSON to a type of `msgspec`; types are strict, so that "1" and true are no integers.

    Raises:
        ValueError: one line that names the first field with a wrong value, the allowed ones and the value.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).replace("`", "").partition(" - at $")
        for start, form in OF_FIELDS.items():
            if problem.startswith(start):
                name = f"{place}.{problem.removeprefix(start)}".removeprefix(".")
                raise ValueError(form.format(_shown(name))) from None
        allowed = " or ".join(map(_in_words, problem.removeprefix("Expected ").partition(", got ")[0].split(" | ")))
        raise ValueError(
            f"{place.removeprefix('.') or 'it'} must be {allowed}; given {_shown(_at(values, place))}"
        ) from None


def _in_words(kind: str) -> str:
    """Puts a type as `msgspec` writes it, such as "int <= 8", into words."""
    name, space, bounds = kind.partition(" ")
    return WORDS.get(name, name) + space + bounds.replace("<= ", "of at most ").replace(">= ", "of at least ")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{_shown(name)} stands twice")
    return values


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"the number {shortened(text)} has more than {MOST_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {shortened(text)} is too large")
    return number


def _at(values: Any, place: str) -> Any:
    """Returns the value at a place such as ".normalisation.mean[1]", or the innermost one around it."""
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", place):
        try:
            values = values[name] if name else values[int(index)]
        except (KeyError, IndexError, TypeError):
            break
    return values


def _shown(value: Any) -> str:
    if isinstance(value, list | dict) and len(value) > SHOWN:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    return shortened(NAMES.get(value, repr(value)) if isinstance(value, bool | None) else repr(value))


def shortened(text: str, longest: int = SHOWN) -> str:
    """Returns the first characters of a text, with an ellipsis if it is longer."""
    return text if len(text) <= longest else f"{text[:longest]}…"
