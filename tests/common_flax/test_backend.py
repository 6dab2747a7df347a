"""Devices that are asked for and not there, at every door."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOORS = {
    "train.py": ([str(ROOT / "train.py"), "--arch", "resnet20"], "train.py"),
    "training": (["-m", "training_flax", "--arch", "resnet20", "--eval-only", "--out", "run"], "training_flax"),
    "predict": (["-m", "training_flax.predict", "--weights", "w.safetensors", "photo.jpg"], "predict"),
    "inspect": (["-m", "weights_flax", "inspect", "w.safetensors"], "weights_flax"),
    "export": (
        ["-m", "weights_flax", "export", "--arch", "resnet20", "--format", "torch", "--out", "w"],
        "weights_flax",
    ),
    "theory": (["-m", "theory_flax", "gradient_identity", "--quick"], "theory_flax"),
}


def refused(door, platforms, folder, variable="JAX_PLATFORMS"):
    """What the one line says; nothing is written."""
    arguments, name = DOORS[door]
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=os.environ | {variable: platforms, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{name}: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not list(folder.iterdir())
    return done.stderr


@pytest.mark.parametrize("door", DOORS)
def test_a_platform_that_jax_does_not_know_is_told_in_one_line(door, tmp_path):
    line = refused(door, "quantum", tmp_path)
    assert "JAX_PLATFORMS asks for 'quantum', which JAX cannot start here: " in line
    assert "'quantum' is not in the list of known backends" in line


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "extra"), [("cuda", "gpu"), ("tpu", "tpu")])
def test_an_accelerator_that_is_not_there_is_told_with_what_to_install(platform, extra, tmp_path):
    has = f"import jax; jax.devices({platform!r})"
    if subprocess.run([sys.executable, "-c", has], capture_output=True).returncode == 0:
        pytest.skip(f"this machine has a device of the platform {platform}")
    line = refused("train.py", platform, tmp_path)
    assert f"JAX_PLATFORMS asks for {platform!r}, which JAX cannot start here" in line
    assert f"'resnet-densenet-flax[{extra}]'" in line


@pytest.mark.slow
def test_the_older_variable_is_named_where_it_asks(tmp_path):
    line = refused("train.py", "quantum", tmp_path, "JAX_PLATFORM_NAME")
    assert "JAX_PLATFORM_NAME asks for 'quantum', which JAX cannot start here: " in line
