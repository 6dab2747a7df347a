"""The learning-rate range test: rates that rise, a suggestion by a rule, and no run that is changed."""

import json
from math import inf, nan

import numpy as np
import pytest

from training_flax import TrainConfig, fit, lr_range, train_command
from training_flax.range_test import RULE, suggested
from training_flax.results import is_whole_picture

SMALL = dict(arch="resnet20", width=2, data="fake:8x8x1:2:64", batch_size=16, augment=())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_rates_rise_by_equal_factors_and_files_tell_them(tmp_path):
    found = lr_range(TrainConfig(**SMALL, steps=9, out=tmp_path / "range"), low=1e-6, high=1e-2, quiet=True)
    np.testing.assert_allclose(found.rates, np.logspace(-6, -2, 9), rtol=1e-12)
    assert len(found.losses) == len(found.smoothed) == 9
    weights = 0.9 ** np.arange(9)
    for step in range(9):  # an average of the last losses, each of 0.9 times the weight of the next
        expected = np.average(found.losses[: step + 1], weights=weights[: step + 1][::-1])
        assert found.smoothed[step] == pytest.approx(expected, rel=1e-9)
    assert {path.name for path in (tmp_path / "range").iterdir()} == {"lr_range.png", "lr_range.json"}
    assert is_whole_picture(tmp_path / "range" / "lr_range.png")
    told = json.loads((tmp_path / "range" / "lr_range.json").read_text())
    assert told["rates"] == list(found.rates)
    assert told["losses"] == list(found.losses)
    assert (told["suggested_lr"], told["rule"]) == (found.suggestion, RULE)
    assert told["optimizer"] == "sgd"


@pytest.mark.slow
def test_steps_are_those_of_a_run_at_these_rates(tmp_path):
    """The first step's loss is that of a run; and a test that repeats gives the same bits."""
    options = SMALL | dict(steps=4)
    first, second = (lr_range(TrainConfig(**options, out=tmp_path / name), quiet=True) for name in "ab")
    assert (first.losses, first.rates) == (second.losses, second.rates)
    run = fit(TrainConfig(**options, out=tmp_path / "run"), quiet=True).run
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = next(line["loss"] for line in lines if line["split"] == "train" and line["step"] == 1)
    assert first.losses[0] == pytest.approx(loss, rel=1e-6)


@pytest.mark.slow
def test_a_rate_that_blows_up_ends_the_test(tmp_path, capsys):
    config = TrainConfig(**SMALL, steps=40, optimizer="sgd", out=tmp_path / "range")
    found = lr_range(config, low=1e2, high=1e30)
    assert len(found.losses) < 40
    told = json.loads((tmp_path / "range" / "lr_range.json").read_text())  # no NaN, which is no JSON
    assert len(told["losses"]) == len(found.losses)
    assert is_whole_picture(tmp_path / "range" / "lr_range.png")
    assert "\nended after " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("smoothed", "expected"),
    [([3, 2, 1, 2], 0.1), ([1, 2, 3, 4], None), ([3, 2, 2, inf], 0.01), ([3, nan, 2.5, 9], 0.1), ([3], None)],
)
def test_the_suggestion_is_a_tenth_of_the_best_rate(smoothed, expected):
    assert suggested([0.01, 0.1, 1.0, 10.0], smoothed) == (None if expected is None else pytest.approx(expected))


@pytest.mark.slow
def test_under_linear_scaling_the_suggestion_is_for_a_batch_of_256(tmp_path):
    options = SMALL | dict(steps=6)
    plain = lr_range(TrainConfig(**options, out=tmp_path / "a"), low=1e-3, high=1e-1, quiet=True)
    scaled = lr_range(TrainConfig(**options, lr_scaling="linear", out=tmp_path / "b"), low=1e-3, high=1e-1, quiet=True)
    assert scaled.losses == plain.losses
    if plain.suggestion is None:
        assert scaled.suggestion is None
    else:
        assert scaled.suggestion == pytest.approx(plain.suggestion * 256 / 16)


@pytest.mark.slow
def test_a_run_is_not_touched(tmp_path, capsys):
    run = fit(TrainConfig(**SMALL, steps=1, out=tmp_path / "run"), quiet=True).run
    before = contents(tmp_path)
    words = ["--arch", "resnet20", "--width", "2", "--lr-range", "--out", str(run)]
    assert train_command.main(words) == 2
    error = capsys.readouterr().err
    assert error == f"train.py: error: out {str(run)!r} holds a run; name another folder for the range test\n"
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.1), (-1.0, 1.0), (1.0, inf), (nan, 1.0)])
def test_rates_that_do_not_rise_are_refused(low, high, tmp_path):
    with pytest.raises(ValueError, match=r"^low and high must be positive, finite and rising; given"):
        lr_range(TrainConfig(**SMALL, out=tmp_path / "range"), low=low, high=high)
    assert not (tmp_path / "range").exists()
