"""Loss of power: recorded file calls, replayed on a disk that forgets what was not synced."""

from pathlib import Path

import pytest
from disk import Disk, changed
from file_calls import WHY_MISSING, Call, missing
from real_disk import can_mount
from tools import succeeds

CREATE, TRUNCATE = 0o100 | 0o1, 0o100 | 0o1 | 0o1000


def calls(*lines):
    """Recorded calls from lines such as "write a text", below /disk."""
    for line in lines:
        name, path, *more = line.split()
        start = {"create": CREATE, "empty": TRUNCATE}.get(name, 0)
        text = more[0] if more else ""
        other, data = (f"/disk/{text}", b"") if name in ("rename", "link") else ("", text.encode())
        name = {"create": "open", "empty": "open", "size": "truncate"}.get(name, name)
        yield Call(name, int(text) if name == "truncate" else start, f"/disk/{path}", other, data)


WHOLE = ("create a", "write a new", "sync a", "rename a b", "sync /")


@pytest.mark.parametrize(
    ("lines", "dropped", "emptied", "kept"),
    [
        (WHOLE[:1], {}, {"a": b""}, {"a": b""}),
        (WHOLE[:2], {}, {"a": b""}, {"a": b"new"}),
        (WHOLE[:3], {}, {"a": b"new"}, {"a": b"new"}),
        (WHOLE[:4], {}, {"b": b"new"}, {"b": b"new"}),
        (WHOLE, *[{"b": b"new"}] * 3),
        # Without the sync of the file the name comes, and the content does not.
        (("create a", "write a new", "rename a b", "sync /"), {"b": b""}, {"b": b""}, {"b": b"new"}),
        # Without the sync of the folder the old file stays.
        (
            (*WHOLE, "create a", "write a other", "sync a", "rename a b"),
            {"b": b"new"},
            {"b": b"other"},
            {"b": b"other"},
        ),
        ((*WHOLE, "empty b"), {"b": b"new"}, {"b": b""}, {"b": b""}),
        ((*WHOLE, "size b 2"), {"b": b"new"}, {"b": b"ne"}, {"b": b"ne"}),
        ((*WHOLE, "unlink b"), {"b": b"new"}, {}, {}),
        ((*WHOLE, "unlink b", "sync /"), {}, {}, {}),
        (("mkdir d", "create d/a", "sync d/a", "sync d"), {}, *[{"d": None, "d/a": b""}] * 2),
        (("mkdir d", "create d/a", "sync /"), {"d": None}, *[{"d": None, "d/a": b""}] * 2),
        (("mkdir d", "create d/a", "sync d", "sync /", "rename d e", "sync /"), *[{"e": None, "e/a": b""}] * 3),
    ],
)
def test_a_disk_keeps_what_was_synced(lines, dropped, emptied, kept):
    disk = Disk(Path("/disk"))
    for call in calls(*lines):
        disk.apply(call)
    assert (disk.dropped(), disk.emptied(), disk.kept()) == (dropped, emptied, kept)


@pytest.mark.parametrize(
    ("data", "change", "after"),
    [
        (b"", (0, b"ab"), b"ab"),
        (b"abcd", (1, b"xy"), b"axyd"),
        (b"ab", (4, b"x"), b"ab\0\0x"),
        (b"abc", 1, b"a"),
        (b"a", 3, b"a\0\0"),
    ],
)
def test_changes_of_content(data, change, after):
    assert changed(data, change) == after


@pytest.mark.slow
@pytest.mark.skipif(missing, reason=WHY_MISSING)
@pytest.mark.parametrize("again", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_nothing_is_lost_when_power_fails_at_any_call(again, tmp_path):
    """After a loss at any file call: no part of a file, the newest whole checkpoint is there, and the run goes on."""
    succeeds("power_cuts", tmp_path / "runs", "--again", str(again))


@pytest.mark.slow
@pytest.mark.parametrize("mount", ["data=ordered", "data=writeback,noauto_da_alloc"])
def test_nothing_is_lost_when_a_disk_loses_power(mount, tmp_path):
    """Copies of a disk at moments of a run, and soon after its end: the same command ends with the same weights."""
    if not can_mount(tmp_path):
        pytest.skip("mounting is not allowed")
    succeeds("real_disk", tmp_path / "runs", "--mount", mount, "--moments", "3")
