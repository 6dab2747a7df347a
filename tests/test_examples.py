"""The examples do what they say."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "train_in_thirty_lines.py"


@pytest.mark.slow
def test_thirty_lines_train_a_network(capsys):
    runpy.run_path(str(EXAMPLE))
    said = capsys.readouterr().out
    accuracy = re.fullmatch(r"test accuracy ([\d.]+) % of 360 images", said.splitlines()[-1])
    assert float(accuracy[1]) > 90


def test_thirty_lines_are_thirty_lines():
    assert sum(bool(line.strip()) for line in EXAMPLE.read_text().splitlines()[1:]) <= 30


def test_the_identity_on_functions_of_ones_own(capsys):
    path = EXAMPLE.with_name("gradient_identity.py")
    assert sum(bool(line.strip()) for line in path.read_text().splitlines()[1:]) <= 20
    runpy.run_path(str(path))
    error, shares = re.search(r"differ by (\S+) ", said := capsys.readouterr().out)[1], re.findall(r"([-\d.]+)%", said)
    assert float(error) < 1e-5
    assert len(shares) == 13
    assert sum(map(float, shares)) == pytest.approx(100, abs=2)  # each is rounded
