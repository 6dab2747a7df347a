"""Files that somebody else may have made: only regular ones are opened, and nothing waits."""

import os
import socket
import time

import pytest

from common_flax.files import LONGEST_TEXT, open_regular, read_text


def fifo(path):
    os.mkfifo(path)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def link_to(target):
    return lambda path: path.symlink_to(target)


SPECIAL = {
    "a pipe": (fifo, "it is a pipe, not a regular file"),
    "a socket": (bound_socket, "it is a socket, not a regular file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "a link to an endless device": (link_to("/dev/zero"), "it is a device, not a regular file"),
    "a link to a terminal": (link_to("/dev/tty"), "it is a device, not a regular file"),
    "a link to a folder": (link_to("/"), "Is a directory"),
    "a broken link": (link_to("nothing"), "No such file or directory"),
    "a link to itself": (link_to("x.jpg"), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_refused_at_once(kind, tmp_path):
    make, said = SPECIAL[kind]
    make(tmp_path / "x.jpg")
    start = time.perf_counter()
    for read in (open_regular, read_text):
        with pytest.raises(OSError, match=said):
            read(tmp_path / "x.jpg")
    assert time.perf_counter() - start < 1


def test_a_file_that_becomes_a_pipe_between_look_and_opening_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"abc")
    opened = os.open

    def swapped(name, *flags):
        path.unlink()
        os.mkfifo(path)
        return opened(name, *flags)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(OSError, match="it is a pipe"):
        open_regular(path)


def test_regular_files_and_links_to_them_are_read(tmp_path):
    (tmp_path / "a").write_text("grün\n")
    (tmp_path / "b").symlink_to("a")
    assert read_text(tmp_path / "b") == "grün\n"
    with open_regular(tmp_path / "a") as file:
        assert file.read() == "grün\n".encode()


def test_a_text_has_a_bound(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(LONGEST_TEXT + 1)
    with pytest.raises(OSError, match="it has more than 16,777,216 bytes"):
        read_text(tmp_path / "a")


def test_a_name_with_a_zero_byte_is_an_error_of_the_system():
    with pytest.raises(OSError, match="null"):
        open_regular("a\0b")
