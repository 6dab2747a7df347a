"""The command in an empty folder, and a run that it has made."""

import sys
import time
from dataclasses import replace

import pytest
from command_line import CORE_SECONDS, NETWORK, contents

from training_flax import train_command
from training_flax.run.programs import compile_programs


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Makes an empty working directory, with the cache inside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("keep_compiled_programs", "keep_memory"):
        monkeypatch.setattr(train_command, name, lambda: None)
    return tmp_path


COMPILED = {}
RUNS = {}


@pytest.fixture
def door(here, monkeypatch, capsys):
    """Makes the function arguments → exit code, stdout, stderr. Runs of the same network share compiled programs."""

    def compile_once(job):
        # With a constant learning rate the programs do not depend on the number of steps.
        config = replace(job.config, out=None, steps=None, weights=None, max_skipped=1, recipe=None)
        key = (config, job.dataset.mean, job.dataset.std)
        if key not in COMPILED:
            COMPILED[key] = compile_programs(job)
        return COMPILED[key]

    def opened(*arguments, network=NETWORK):
        start = time.process_time()
        code = train_command.main([*network, *arguments])
        assert time.process_time() - start < CORE_SECONDS or code == 0
        return code, *capsys.readouterr()

    monkeypatch.setattr(sys.modules["training_flax.fit"], "compile_programs", compile_once)
    return opened


@pytest.fixture
def run(here, door):
    """Copies a run of two steps to this folder."""
    if "run" not in RUNS:
        assert door("--steps", "2", "--out", "run")[0] == 0
        assert door("--steps", "4", "--extend", "--out", "run")[0] == 0
        RUNS["run"] = contents(here / "run")
    for name, held in RUNS["run"].items():
        path = here / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held) if isinstance(held, bytes) else path.mkdir(exist_ok=True)
    return here / "run"
