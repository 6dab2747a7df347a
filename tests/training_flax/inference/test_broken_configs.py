"""A run whose config.json is broken, by every door: a line, or the same results as before."""

import json
import os
import random
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from broken_configs import BROKEN, without

from common_flax.check_sums import KEY, unsealed
from training_flax import TrainConfig, fit, plan, restore
from training_flax.inference.trained import network_of_run
from training_flax.run import comparison
from training_flax.train_command import main as train
from weights_flax import load_model
from weights_flax.__main__ import main as weights_command

NINE_BLOCKS = True
CONFIG = TrainConfig("resnet20", width=4, data="fake:8x8x3:4:64", batch_size=16, steps=12, ema=0.5)
TRAIN = ["--arch", "resnet20", "--width", "4", "--data", "fake:8x8x3:4:64", "--batch-size", "16", "--steps", "12"]
TRAIN += ["--ema", "0.5", "--out", "run"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Trains a short run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    fit(TrainConfig(**vars(CONFIG) | {"out": path}), quiet=True)
    return path


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """Copies the config of the run, and links to its other files, in this folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for path in finished.iterdir():
        if path.name != "config.json":
            (tmp_path / "run" / path.name).symlink_to(path)
    shutil.copy(finished / "config.json", tmp_path / "run")
    return tmp_path / "run"


def trained_again(run):
    job = plan(TrainConfig(**vars(CONFIG) | {"out": run}))
    return job.mark, job.config


def exported(run):
    assert weights_command(["convert", str(run), "--out", "out.npz"]) == 0
    with np.load("out.npz") as file:
        return {name: file[name] for name in file.files if name != "card"}


DOORS = {
    "train": trained_again,
    "predict": lambda run: (lambda found: (found.variables, found.class_names, found.mean, found.std, found.size))(
        network_of_run(run, "float32")
    ),
    "compare": lambda run: comparison.tabulate([comparison.read_run(run)]),
    "restore": lambda run: restore(run)[1],
    "load_model": lambda run: load_model(run).variables,
    "convert": exported,
}


def by(door, run, capsys):
    """Returns the results of a door, or the one line that it says in place of them."""
    try:
        return DOORS[door](run.relative_to(run.parent)), None
    except ValueError as error:
        return None, str(error)
    except AssertionError:
        return None, capsys.readouterr().err.removesuffix("\n")


@pytest.fixture(scope="session")
def right():
    """The results of all doors before anything was broken."""
    return {}


def same(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray | jax.Array) else a == b
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("door", DOORS)
def test_no_door_takes_a_broken_config(door, run, capsys):
    written = (run / "config.json").read_bytes()
    expected, line = by(door, run, capsys)
    assert line is None
    plain = unsealed(json.loads(written))
    for case, (change, _) in BROKEN.items():
        (run / "config.json").write_text(json.dumps(change(plain)))
        found, line = by(door, run, capsys)
        assert line is not None or same(found, expected), case
        said = line is None or "config.json" in line or "out 'run' holds another run, which differs in " in line
        assert said and len((line or "").splitlines()) < 2, (case, line)


@pytest.mark.parametrize("door", DOORS)
def test_no_door_gives_other_results_after_damage(door, run, capsys):
    written = (run / "config.json").read_bytes()
    expected, _ = by(door, run, capsys)
    random.seed(2)
    for number in range(60):
        damaged, at = bytearray(written), random.randrange(len(written))
        if number % 2:
            damaged[at] ^= 1 << random.randrange(8)
        else:
            del damaged[at : at + random.choice([1, 20, len(written)])]
        (run / "config.json").write_bytes(damaged)
        found, line = by(door, run, capsys)
        if line is None:
            assert same(found, expected), (number, at)
        else:
            assert len(line.splitlines()) == 1
            assert "config.json" in line


PLACES = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to("config.json"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a large file": lambda path: path.write_bytes(b" " * (25 << 20)),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("place", PLACES)
def test_no_door_hangs_on_another_kind_of_file(place, door, run, capsys):
    expected, _ = by(door, run, capsys)
    (run / "config.json").unlink()
    PLACES[place](run / "config.json")
    found, line = by(door, run, capsys)
    assert line is not None or same(found, expected)
    assert line is None or len(line.splitlines()) == 1


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_a_run_with_old_names_of_options(door, run, capsys):
    plain = unsealed(json.loads((run / "config.json").read_text()))
    expected, _ = by(door, run, capsys)
    new = {"optimizer": "optimiser", "stem_type": "stem"}
    old = without("augment_until", "test_crop")({new.get(name, name): value for name, value in plain.items()})
    old["model"] = {new.get(name, name): value for name, value in plain["model"].items() if value is not None}
    old["model"]["stem"] = "cifar"
    (run / "config.json").write_text(json.dumps(old))
    for files in ("all", "the checkpoint alone"):
        found, line = by(door, run, capsys)
        assert line is None, files
        if door == "train":  # an option that is left out is the run's
            assert found[1] == replace(expected[1], stem_type="cifar")
        else:
            assert same(found, expected) or door == "compare"
        for name in ("model.safetensors", "model_ema.safetensors"):
            (run / name).unlink(missing_ok=True)


def test_the_command_that_trains_says_one_line(run, capsys):
    (run / "config.json").write_text(json.dumps(without(KEY, "arch")(json.loads((run / "config.json").read_text()))))
    assert train(TRAIN) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error == (
        "train.py: error: out 'run' has a damaged config.json; name a new folder: "
        "'run/config.json' is damaged: arch is missing\n"
    )
