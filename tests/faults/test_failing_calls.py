"""Errors of the disk at file calls of a run: one line, and the same command goes on to the same weights."""

import pytest
from failing_calls import MODES
from file_calls import WHY_MISSING, missing
from tools import succeeds


@pytest.mark.slow
@pytest.mark.skipif(missing, reason=WHY_MISSING)
@pytest.mark.parametrize(
    ("modes", "sample"), [(["full-once", "error", "half"], 2), pytest.param(list(MODES), 5, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_after_errors_of_the_disk(modes, sample, tmp_path):
    """A seeded sample of calls; the tool takes all of them where it is told no sample."""
    succeeds("failing_calls", tmp_path / "runs", "--sample", str(sample), "--modes", *modes)
