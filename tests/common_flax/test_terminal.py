"""Text from files on its way to the terminal."""

import errno
import io
import json
import os
import unicodedata
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest

from common_flax.command_line import run_command
from common_flax.terminal import OutputError, complain, say, tell, visible

STEERING = {
    "a colour": ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    "a window's title": ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    "a control of eight bits": ("\x9b2J", r"\x9b2J"),
    "a bell": ("a\x07b", r"a\x07b"),
    "a backspace": ("safe\x08\x08evil", r"safe\x08\x08evil"),
    "a carriage return": ("error\rfine", r"error\rfine"),
    "a line's end": ("a\npredict: error: b", r"a\npredict: error: b"),
    "a tab": ("a\tb", r"a\tb"),
    "a zero byte": ("a\0b", r"a\x00b"),
    "a deletion": ("a\x7fb", r"a\x7fb"),
    "another line's end": ("a\u2028b\u2029c\x85d\x0be\x0cf", r"a\u2028b\u2029c\x85d\x0be\x0cf"),
    "text from right to left": ("cat\u202egpj.exe", r"cat\u202egpj.exe"),
    "an isolated direction": ("a\u2066b\u2069", r"a\u2066b\u2069"),
    "no width": ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
    "a hidden tag": ("a\U000e0041", r"a\U000e0041"),
    "half of a pair": ("a\ud83d", r"a\ud83d"),
    "a byte that is no text": (b"a\xff".decode(errors="surrogateescape"), r"a\udcff"),
    "a private character": ("\ue000", r"\ue000"),
}


@pytest.mark.parametrize("name", STEERING)
def test_what_steers_a_terminal_shows_as_an_escape(name, capsys):
    text, expected = STEERING[name]
    assert visible(text) == expected
    assert visible(expected) == expected
    say(text, "next")
    complain(text)
    shown = capsys.readouterr()
    assert shown.out == f"{expected}\nnext\n"
    assert shown.err == f"{expected}\n"


@pytest.mark.parametrize("text", ["", "a b", "Ä×…–", "猫", "🐈", "$\\frac{1}{0}$", "a'b\"c", "%s {} \\n"])
def test_what_shows_stays_as_it_is(text):
    assert visible(text) == text


def test_no_character_that_steers_passes():
    every = "".join(map(chr, range(0x110000)))
    shown = visible(every)
    assert {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} == set()
    assert "\n" not in shown
    shown.encode()


def test_an_error_is_one_line_whatever_it_quotes(capsys):
    def fail():
        raise ValueError("class '\x1b[2J\nall is well\u202e'")

    assert run_command("predict", fail) == 2
    assert capsys.readouterr().err == "predict: error: class '\\x1b[2J\\nall is well\\u202e'\n"


def test_lines_go_out_at_once():
    class Stream(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    stream = Stream()
    say(json.dumps({"a": "\x1b"}), "b", file=stream)
    assert stream.flushed == '{"a": "\\u001b"}\nb\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_an_output_that_cannot_be_written_is_one_error(monkeypatch, capsys):
    def fails(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", fails)
        with pytest.raises(OutputError, match=r"^the output cannot be written: No space left on device$"):
            say("lost")
        tell("lost too")  # work that writes files goes on
    with suppress(OSError), Path("/dev/full").open("w") as full, redirect_stdout(full):
        assert run_command("here", lambda: say("lost")) == 2
    assert capsys.readouterr().err == "here: error: the output cannot be written: No space left on device\n"
