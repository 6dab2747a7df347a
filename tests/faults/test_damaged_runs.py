"""Damages to a run's folder: each door gives right results, or refuses in one line."""

import pytest
from tools import succeeds


@pytest.mark.slow
@pytest.mark.parametrize("damages", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_damages_are_never_other_numbers(damages, tmp_path):
    """A seeded sample of damages, to finished and unfinished runs, read by all doors."""
    succeeds("damaged_runs", tmp_path / "runs", "--damages", str(damages))
