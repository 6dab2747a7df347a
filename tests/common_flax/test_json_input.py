"""JSON that somebody else wrote: wrong text, wrong types and other kinds of files are refused in one line."""

import json
import os
import socket
from typing import Annotated

import msgspec
import pytest

from common_flax.json_input import MOST_BYTES, parse_object, read_object, typed

WRONG = {
    "nothing": (b"", "Expecting value: line 1 column 1 (char 0)"),
    "zeros": (b"\0" * 100, "Expecting value"),
    "cut": (b'{"a": [1, 2', "Expecting ',' delimiter"),
    "more after the end": (b"{} {}", "Extra data"),
    "a list": (b"[1, 2]", "it must be an object; given [1, 2]"),
    "null": (b"null", "it must be an object; given null"),
    "a long text": (json.dumps("x" * 1000).encode(), "it must be an object; given 'xxx"),
    "not UTF-8": (b'{"a": "\xff"}', "'utf-8' codec can't decode byte 0xff"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "'utf-8' codec can't decode byte 0xff"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM"),
    "lists in lists": (b'{"a": ' + b"[" * 100_000, "nested too deep"),
    "objects in objects": (b'{"a":' * 100_000, "nested too deep"),
    "closed lists in lists": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    "a million lists": (b'{"a": [' + b"[]," * 2_000_000 + b"1]}", "it has more than 1,048,576 lists, objects and"),
    "a million fields": (
        b"{" + b",".join(b'"%d":1' % number for number in range(1_100_000)) + b"}",
        "it has more than 1,048,576 lists, objects and",
    ),
    "NaN": (b'{"a": NaN}', "NaN is no number of JSON"),
    "Infinity": (b'{"a": [-Infinity]}', "-Infinity is no number of JSON"),
    "a number over all numbers": (b'{"a": 1e999}', "the number 1e999 is too large"),
    "many digits": (b'{"a": %s}' % (b"9" * 5000), "has more than 20 digits"),
    "digits after a minus": (b'{"a": -%s}' % (b"9" * 5000), "has more than 20 digits"),
    "a field twice": (b'{"a": 1, "a": 1}', "'a' stands twice"),
    "an inner field twice": (b'{"a": [{"b": 1, "c": 2, "b": 3}]}', "'b' stands twice"),
    "a field twice, escaped once": (b'{"a": 1, "\\u0061": 2}', "'a' stands twice"),
    "a comment": (b'{"a": 1} // one', "Extra data"),
    "single quotes": (b"{'a': 1}", "Expecting property name enclosed in double quotes"),
    "a comma at the end": (b'{"a": 1,}', ""),
    "a bare control character": (b'{"a": "\n"}', "Invalid control character"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_text_is_refused_in_one_line(case, tmp_path):
    data, message = WRONG[case]
    with pytest.raises(ValueError) as refusal:
        parse_object(data)
    assert message in str(refusal.value)
    (tmp_path / "file.json").write_bytes(data)
    with pytest.raises(ValueError) as read:
        read_object(tmp_path / "file.json")
    assert str(read.value) == f"{str(tmp_path / 'file.json')!r} is damaged: {refusal.value}"
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 200


def test_right_text_is_read_as_json_reads_it():
    values = {"a": [1, -2.5, 1e-300, None, True, "é\n\udcff"], "b": {"a": 10**19, "c": {}}}
    for text in (json.dumps(values), json.dumps(values, indent=2)):
        assert parse_object(text.encode()) == values
    assert parse_object(b'{"a": NaN, "b": [Infinity]}', nan_is_null=True) == {"a": None, "b": [None]}


def test_a_file_over_the_limit_is_not_read(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(50 * MOST_BYTES)
    with pytest.raises(ValueError, match="has more than 25,165,824 bytes"):
        read_object(tmp_path / "file")


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


KINDS = {
    "a pipe": (os.mkfifo, "a pipe"),
    "a folder": (os.mkdir, "Is a directory"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "a socket": (a_socket, "a socket"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "No such file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_than_regular_ones_are_not_opened(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    make, message = KINDS[kind]
    make(tmp_path / "it" if kind != "a socket" else "it")
    with pytest.raises(OSError, match=message):
        read_object(tmp_path / "it")


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    width: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    names: tuple[str, ...] = ()


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: Inner
    shape: tuple[int, int] = (1, 1)
    rate: float = 0.1
    loud: bool = False
    versions: dict[str, str] = {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"width": 9}}, "inner.width must be an integer of at most 8; given 9"),
        ({"inner": {"width": 0}}, "inner.width must be an integer of at least 1; given 0"),
        ({"inner": {"width": "8"}}, "inner.width must be an integer or null; given '8'"),
        ({"inner": {"width": True}}, "inner.width must be an integer or null; given true"),
        ({"inner": {"width": 1.5}}, "inner.width must be an integer or null; given 1.5"),
        ({"inner": {"names": ["a", None]}}, "inner.names[1] must be a string; given null"),
        ({"inner": {"names": {"a": "b"}}}, "inner.names must be a list; given {'a': 'b'}"),
        ({"inner": {"names": "abc"}}, "inner.names must be a list; given 'abc'"),
        ({"inner": None}, "inner must be an object; given null"),
        ({"inner": {"witdh": 1}}, "there is no field 'inner.witdh'"),
        ({"inner": {}, "other\n\x1b[2J": 1}, r"there is no field 'other\n\x1b[2J'"),
        ({"rate": 1}, "the field 'inner' is missing"),
        ({"inner": {}, "shape": [1]}, "shape must be a list of length 2; given [1]"),
        ({"inner": {}, "shape": [1] * 100}, "shape must be a list of length 2; given a list of 100"),
        ({"inner": {}, "rate": "0.1"}, "rate must be a number; given '0.1'"),
        ({"inner": {}, "rate": False}, "rate must be a number; given false"),
        ({"inner": {}, "loud": 1}, "loud must be true or false; given 1"),
        ({"inner": {}, "versions": {"jax": 1}}, "versions[...] must be a string; given {'jax': 1}"),
        ([], "it must be an object; given []"),
    ],
)
def test_the_field_of_a_wrong_type_is_named(values, message):
    with pytest.raises(ValueError) as refusal:
        typed(values, Outer)
    assert str(refusal.value) == message
