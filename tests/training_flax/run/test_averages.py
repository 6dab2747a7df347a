"""Averaged weights of whole runs: short ones, resumed ones, and runs that began before averages had a warm-up."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from training_flax import RECIPES, TrainConfig, fit, plan, with_recipe
from training_flax.run.folder import write_config

SMALL = dict(width=4, data="fake:8x8x3:4:64", batch_size=16, recipe="he2015-cifar", augment=("none",))
SMALL |= dict(schedule="constant", lr=0.05)


def run(out, extend=False, **options):
    """Trains a residual network with one block in each stage."""
    job = plan(TrainConfig("resnet20", out=out, **SMALL | options), extend=extend)
    small = job.eval_model.clone(stage_sizes=(1, 1, 1))
    fit(replace(job, eval_model=small, model=small.clone(axis_name=job.devices.model_axis_name)), quiet=True)
    return out


def forget(folder, **changes):
    """Changes entries of a run's config.json, or removes those that are None, as if an older version had written it."""
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {name: value for name, value in config.items() if name not in changes or value is not None}
    kept.pop("check_sum", None)
    (folder / "config.json").write_text(json.dumps(kept))


def averages(folder):
    return load_file(folder / "model_ema.safetensors")


def check_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_new_averages_warm_up_and_recipes_have_none():
    assert with_recipe(TrainConfig("resnet20")).ema_warmup is True
    assert {recipe.config.ema for recipe in RECIPES.values()} == {None}
    assert {recipe.config.ema_warmup for recipe in RECIPES.values()} == {None}


@pytest.mark.slow
def test_an_older_run_goes_on_with_the_average_that_it_began_with(tmp_path):
    """A run without the option in config.json ends as one that never warmed up, also when it resumes twice."""
    old = run(tmp_path / "old", steps=4, ema=0.9, ema_warmup=False)
    forget(old, ema_warmup=None)
    run(old, steps=6, ema=0.9, extend=True)
    run(old, steps=8, ema=0.9, extend=True)
    assert json.loads((old / "config.json").read_text())["ema_warmup"] is False
    check_equal(averages(old), averages(run(tmp_path / "without", steps=8, ema=0.9, ema_warmup=False)))


@pytest.mark.slow
def test_a_warm_up_goes_on_where_it_stopped(tmp_path):
    halves = run(tmp_path / "halves", steps=4, ema=0.9999)
    run(halves, steps=8, ema=0.9999, extend=True)
    whole = averages(run(tmp_path / "whole", steps=8, ema=0.9999))
    check_equal(averages(halves), whole)
    without = averages(run(tmp_path / "without", steps=8, ema=0.9999, ema_warmup=False))
    assert not np.array_equal(whole["fc.weight"], without["fc.weight"])


@pytest.mark.parametrize(("stored", "given", "used"), [
    (None, None, False),
    (False, None, False),
    (True, None, True),
    (None, False, False),
    (True, True, True),
])  # fmt: skip
def test_an_existing_run_keeps_its_warm_up(tmp_path, stored, given, used):
    options = SMALL | dict(steps=4, ema=0.9, out=tmp_path / "run")
    job = plan(TrainConfig("resnet20", **options))
    job.run.mkdir()
    write_config(job.run, job.config, job.dataset, job.mark)
    forget(job.run, ema_warmup=stored)
    assert plan(TrainConfig("resnet20", **options, ema_warmup=given)).config.ema_warmup is used


@pytest.mark.parametrize(("stored", "given"), [(None, True), (False, True), (True, False)])
def test_another_warm_up_is_another_run(tmp_path, stored, given):
    options = SMALL | dict(steps=4, ema=0.9, out=tmp_path / "run")
    job = plan(TrainConfig("resnet20", **options))
    job.run.mkdir()
    write_config(job.run, job.config, job.dataset, job.mark)
    forget(job.run, ema_warmup=stored)
    with pytest.raises(ValueError, match=f"differs in ema_warmup \\({bool(stored)} there, {given} now\\)$"):
        plan(TrainConfig("resnet20", **options, ema_warmup=given))


def test_a_damaged_config_is_still_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"has a damaged config\.json"):
        plan(TrainConfig("resnet20", **SMALL, steps=4, out=tmp_path / "run"))


@pytest.mark.slow
def test_the_average_of_a_short_run_is_near_its_weights(tmp_path):
    """Over 45 steps a decay of 0.9999 without a warm-up leaves 99.6 % of the initial weights."""
    steps, distances = 45, []
    for warmup in (False, True):
        out = run(tmp_path / str(warmup), steps=steps, ema=0.9999, ema_warmup=warmup)
        last, average = load_file(out / "model.safetensors"), averages(out)
        norm = np.sqrt(sum(np.square(value).sum() for value in last.values()))
        distances.append(np.sqrt(sum(np.square(last[name] - average[name]).sum() for name in last)) / norm)
    assert distances[1] < 0.3 * distances[0], distances
