"""Noise of others: XLA's alarms do not reach the terminal of our commands, and errors do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# When the process ends, XLA folds constants of rising sizes, until one takes long enough for its alarm: over a second.
PROVOKE = """
import atexit

def fold():
    import jax, numpy as np, time
    print("folding", flush=True)
    side, seconds = 20, 0
    while seconds < 1.5:
        ones, start = np.ones((side, side), "f"), time.monotonic()
        largest = lambda x: x + jax.lax.reduce_window(ones, -np.inf, jax.lax.max, (31, 31), (1, 1), "SAME").sum()
        jax.jit(largest).lower(1.0).compile()
        side, seconds = 2 * side, time.monotonic() - start

atexit.register(fold)
"""
ALARM = "Constant folding an instruction is taking"
COMMANDS = {
    "train": ["train.py", "--arch", "resnet20", "--print-config"],
    "predict": ["-m", "training_flax.predict", "--help"],
    "export": ["-m", "weights_flax", "export", "--help"],
}


def run(tmp_path, *arguments, **environment):
    (tmp_path / "sitecustomize.py").write_text(PROVOKE)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    kept = {name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "GRPC_VERBOSITY")}
    environment = kept | {"PYTHONPATH": paths} | environment
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("folding\n")
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_alarms_do_not_reach_the_terminal_of_commands(name, tmp_path):
    assert run(tmp_path, *COMMANDS[name]) == ""


@pytest.mark.slow
def test_users_and_programs_of_their_own_see_them(tmp_path):
    assert ALARM in run(tmp_path, "-c", "import training_flax, weights_flax")
    assert ALARM in run(tmp_path, *COMMANDS["train"], TF_CPP_MIN_LOG_LEVEL="1")
    assert ALARM in run(tmp_path, *COMMANDS["train"], "--verbose")


@pytest.mark.parametrize("module", ["training_flax", "weights_flax", "theory_flax"])
def test_importing_the_packages_changes_no_setting(module):
    names = ("TF_CPP_MIN_LOG_LEVEL", "GRPC_VERBOSITY")
    code = f"import os, jax; before = dict(os.environ); import {module}; assert before == dict(os.environ)"
    kept = {name: value for name, value in os.environ.items() if name not in names} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=kept, check=True)


def test_errors_still_come_through(tmp_path):
    """An error of XLA's backend is raised, and becomes one line."""
    command = [sys.executable, str(ROOT / "train.py"), "--arch", "resnet20", "--steps", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cuda"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("train.py: error: JAX_PLATFORMS asks for 'cuda', which JAX cannot start here")
    assert done.stderr.count("\n") == 1
