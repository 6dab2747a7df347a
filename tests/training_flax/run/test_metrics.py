"""The file of metrics: damage is noticed, and what a loss of power may take is not needed."""

import json

import pytest

from common_flax.check_sums import sealed
from training_flax.run.metrics import METRICS, Metrics, read_metrics, sum_of_metrics
from training_flax.run.summary import has_its_metrics
from training_flax.runtime.signals import RunError

ENTRIES = [{"split": "train", "step": step, "epoch": step / 4, "loss": 1.5 / step} for step in range(1, 7)]


@pytest.fixture
def run(tmp_path):
    """A folder with six entries."""
    written = Metrics(tmp_path, "")
    for entry in ENTRIES:
        written.append(entry)
    return tmp_path


def lines(run):
    return (run / METRICS).read_bytes().splitlines(keepends=True)


def write(run, *parts):
    (run / METRICS).write_bytes(b"".join(parts))


def test_entries_are_read_as_they_were_written(run):
    assert read_metrics(run) == ENTRIES


def of_another_run(run):
    Metrics(run, "another mark").rewind(0, 0, 0)
    written = Metrics(run, "another mark")
    for entry in ENTRIES:
        written.append(entry)


DAMAGES = {
    "another digit": (
        lambda run: write(run, *lines(run)[:2], lines(run)[2].replace(b"0.75", b"0.85"), *lines(run)[3:]),
        3,
    ),
    "a missing line": (lambda run: write(run, *lines(run)[:1], *lines(run)[2:]), 2),
    "a missing first line": (lambda run: write(run, *lines(run)[1:]), 1),
    "a line twice": (lambda run: write(run, *lines(run)[:4], *lines(run)[3:]), 5),
    "lines in another order": (lambda run: write(run, *lines(run)[:3], lines(run)[4], lines(run)[3], lines(run)[5]), 4),
    "zeros": (lambda run: write(run, *lines(run)[:3], b"\0" * 40, *lines(run)[3:]), 4),
    "an empty line": (lambda run: write(run, *lines(run)[:3], b"\n", *lines(run)[3:]), 4),
    "a line of another file": (lambda run: write(run, *lines(run)[:5], b"{}\n", *lines(run)[5:]), 6),
    "another run's file": (of_another_run, 1),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_line_is_named(case, run):
    damage, number = DAMAGES[case]
    damage(run)
    with pytest.raises(RunError, match=f"^line {number} of '.*metrics.jsonl' is damaged; without it and all lines"):
        read_metrics(run)


@pytest.mark.parametrize("case", DAMAGES)
@pytest.mark.parametrize("needed", range(7))
def test_lines_that_were_not_on_the_disk_may_be_damaged(case, needed, run):
    """A run goes on from a checkpoint that was written after `needed` lines, of which each step has one."""
    damage, number = DAMAGES[case]
    damage(run)
    going_on = Metrics(run, "")
    if number <= needed:
        with pytest.raises(RunError, match=f"^line {number} "):
            going_on.rewind(needed, needed, needed)
        return
    going_on.rewind(needed, needed, needed)
    assert going_on.lines == needed
    for entry in ENTRIES[needed:]:
        going_on.append(entry)
    assert read_metrics(run) == ENTRIES


@pytest.mark.parametrize("kept", range(7))
def test_the_file_is_never_empty(kept, run):
    going_on = Metrics(run, "")
    assert going_on.rewind(kept, kept, kept) == 6
    assert (run / METRICS).exists() == (kept > 0)
    assert read_metrics(run) == ENTRIES[:kept]


def test_lines_of_older_versions_are_read_and_get_check_sums(tmp_path):
    write(tmp_path, *(f"{json.dumps(entry)}\n".encode() for entry in ENTRIES[:3]))
    assert read_metrics(tmp_path) == ENTRIES[:3]
    going_on = Metrics(tmp_path, "mark")
    going_on.rewind(3, 3, 0)
    going_on.append(ENTRIES[3])
    assert all("check_sum" in json.loads(line) for line in lines(tmp_path))


@pytest.mark.parametrize("kept", range(6))
def test_the_summary_knows_lines_that_are_missing_at_the_end(kept, run):
    summary = sealed({"steps": 6, "metrics_check_sum": sum_of_metrics(run)})
    assert has_its_metrics(run, summary)
    write(run, *lines(run)[:kept])
    assert not has_its_metrics(run, summary)
    (run / METRICS).unlink()
    assert not has_its_metrics(run, summary)
    assert has_its_metrics(run, {"steps": 6})  # of an older version
