"""Lists of check sums that somebody else has written: they name files of their folder alone."""

import json
import os

import pytest

from common_flax.check_sums import NAME, damage, write_check_sums

OURS = f"its file {NAME} is not what was written"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "run" / "state" / "a").write_bytes(b"abc")
    (tmp_path / "secret").write_bytes(b"abc")
    write_check_sums(tmp_path / "run")
    return tmp_path / "run"


def test_a_whole_folder_is_undamaged(folder):
    assert damage(folder) is None
    (folder / "state" / "a").write_bytes(b"abd")
    assert damage(folder) == "its file state/a is not what was written"


@pytest.mark.parametrize("name", ["../secret", "state/../../secret", "/etc/passwd", "/dev/zero", "/proc/kmsg", ".."])
def test_files_elsewhere_are_not_read(folder, name):
    (folder / NAME).write_text(json.dumps({name: 1}))
    assert damage(folder) == OURS


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("[" * 10**5), OURS),
        (lambda path: path.write_text("[1]"), OURS),
        (lambda path: path.write_bytes(b"\xff"), OURS),
        (lambda path: os.truncate(path, 2**36), "it has more than 16,777,216 bytes"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "it is a pipe, not a regular file"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "it is a device, not a regular file"),
    ],
)
def test_a_list_that_is_none_is_damage(folder, make, said):
    make(folder / NAME)
    assert said in damage(folder)
