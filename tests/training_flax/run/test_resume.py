"""Resumed runs: killed at any instant and started again, a run ends with the weights of one that never stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_flax import Stopped, StopRequest, TrainConfig, fit
from training_flax.runtime.signals import STOP

LLVM = 1
ROOT = Path(__file__).parents[3]
HELPERS = ROOT / "tests" / "helpers"
DIGITS = ["--arch", "resnet8", "--width", "4", "--steps", "400", "--batch-size", "32", "--ema", "0.9"]
FOLDER = ["--arch", "resnet8", "--width", "4", "--steps", "200", "--batch-size", "16", "--image-size", "16"]
FOLDER += ["--augment", "random-resized-crop", "flip", "colour", "--mixup", "0.2", "--cutmix", "1.0"]


def start(*arguments, cache, log):
    """Starts the front door, with an architecture of three blocks beside the others."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS}"}
    command = [sys.executable, str(HELPERS / "dying_process.py"), "none", *arguments]
    with log.open("w") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)


def finish(*arguments, cache, log):
    assert start(*arguments, cache=cache, log=log).wait(timeout=300) == 0, log.read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes two classes of smooth noise, in different sizes, so that they are streamed."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 8)):
        for number, name in enumerate(("a", "b")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (4 + i % 3, 5, 3)) + 100 * number
                picture = Image.fromarray(pixels.astype(np.uint8)).resize((30 + i, 40))
                picture.save(root / part / name / f"{i}.png")
    return f"folder:{root}"


def wait_until(process, happened):
    """Waits for a condition while the process lives."""
    while not happened():
        assert process.poll() is None
        time.sleep(0.01)


def growth(path):
    """Makes a function that is True if a line has been added to a file, which may shrink first."""
    sizes = [sys.maxsize]

    def grew():
        sizes.append(path.stat().st_size if path.exists() else 0)
        return sizes[-1] > sizes[-2]

    return grew


# Seconds until each of ten processes is killed, within half a second: during imports, compilation, restoring, steps,
# evaluations and checkpoints.
INSTANTS = ["", "compiling", "steps", "compiled", "steps", "steps", "going on", "steps", "compiled", "steps"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_killed_at_ten_instants(kind, folder, tmp_path):
    """A run that is killed nine times by SIGKILL and once by SIGTERM leaves the same files as an unbroken run."""
    options = [*DIGITS] if kind == "digits" else [*FOLDER, "--data", folder]
    options += ["--checkpoint-minutes", "0.01"]
    cache, log, broken = tmp_path / "cache", tmp_path / "log", tmp_path / "broken"
    finish(*options, "--out", str(tmp_path / "whole"), cache=cache, log=log)
    draw = random.Random(0)
    for number, instant in enumerate(INSTANTS):
        # A run that has begun knows its options; how often it saves is none of them.
        alone = number % 2 and (broken / "config.json").exists()
        process = start(*(options[-2:] if alone else options), "--out", str(broken), cache=cache, log=log)
        if instant == "steps":
            wait_until(process, growth(broken / "metrics.jsonl"))
        else:
            wait_until(process, lambda instant=instant: instant in log.read_text())
        time.sleep(draw.uniform(0, 0.5))
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM if number == 5 else signal.SIGKILL)
        assert process.wait(timeout=60) == (143 if number == 5 else -signal.SIGKILL)
    finish("--out", str(broken), cache=cache, log=log)
    names = ["model.safetensors", "model_ema.safetensors"] if kind == "digits" else ["model.safetensors"]
    for name in names:
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (broken / name).read_bytes() == expected
    lines = [json.loads(line) for line in (broken / "metrics.jsonl").read_text().splitlines()]
    whole = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    keys = [(line["split"], line["step"]) for line in lines]
    assert keys == [(line["split"], line["step"]) for line in whole]


def interrupted(config, at, again=None):
    """Trains with a stop after `at` steps, then to the end, with the options `again` if they are given."""

    class AfterSteps(StopRequest):
        asked = 0

        @property
        def stop_signal(self):
            self.asked += 1
            return STOP + signal.SIGTERM if self.armed and self.asked > at else 0

        @stop_signal.setter
        def stop_signal(self, value):
            pass

    with pytest.raises(Stopped, match="stopped by SIGTERM after step") as stopped:
        fit(config, quiet=True, stop=AfterSteps())
    assert stopped.value.exit_code == 143
    return fit(again or config, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fake", "folder"])
def test_stopped_and_started_again_by_the_folder_alone(kind, folder, tmp_path):
    """The folder of the run says everything, also what is not the default of an option or its recipe."""
    options = dict(arch="resnet20", width=2, steps=6, batch_size=16, ema=0.9, mixup=0.2, seed=7, lr=0.05)
    options |= dict(data="fake:8x8x3:4:64") if kind == "fake" else dict(data=folder, image_size=8)
    whole = fit(TrainConfig(**options, out=tmp_path / "whole"), quiet=True)
    broken = tmp_path / "broken"
    ended = interrupted(TrainConfig(**options, out=broken), 3, again=TrainConfig(out=broken))
    for name in ("model.safetensors", "model_ema.safetensors"):
        assert (whole.run / name).read_bytes() == (broken / name).read_bytes()
    assert ended.summary["test_accuracy"] == whole.summary["test_accuracy"]


FIFTY_STEPS = dict(arch="resnet20", width=2, steps=50, batch_size=32, ema=0.9, mixup=0.2)


@pytest.fixture(scope="module")
def fifty_steps(fewer_blocks, tmp_path_factory):
    """A run without a stop."""
    return fit(TrainConfig(**FIFTY_STEPS, out=tmp_path_factory.mktemp("whole") / "run"), quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("at", [*(pytest.param(at, marks=pytest.mark.slow) for at in (1, 40, 45)), 47])
def test_told_to_stop_and_started_again(at, fifty_steps, tmp_path):
    """Stops within an epoch and around its end change nothing; 45 batches of 32 are the first epoch of 1,437 digits."""
    whole, broken = fifty_steps, interrupted(TrainConfig(**FIFTY_STEPS, out=tmp_path / "broken"), at)
    for name in ("model.safetensors", "model_ema.safetensors"):
        assert (whole.run / name).read_bytes() == (broken.run / name).read_bytes()
    timing = {"images_per_second", "data_wait"}
    lines, expected = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (broken.run, whole.run)
    )
    # The first line of train metrics after the stop covers fewer steps; all others are the same.
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    tests = [
        [{k: v for k, v in line.items() if k not in timing} for line in run if line["split"] != "train"]
        for run in (lines, expected)
    ]
    assert tests[0] == tests[1]
    assert broken.summary["best_accuracy"] == whole.summary["best_accuracy"]


@pytest.mark.slow
def test_a_longer_run_is_named_or_extended(tmp_path):
    from training_flax import plan

    options = dict(arch="resnet20", width=2, batch_size=32, schedule="constant", warmup=0.0, out=tmp_path / "run")
    fit(TrainConfig(**options, steps=3), quiet=True)
    with pytest.raises(ValueError, match=r"differs in steps \(3 there, 5 now\); --extend makes a run longer"):
        plan(TrainConfig(**options, steps=5))
    longer = fit(plan(TrainConfig(out=tmp_path / "run", steps=5), extend=True), quiet=True)
    assert longer.summary["steps"] == 5
    whole = fit(TrainConfig(**options | dict(out=tmp_path / "whole"), steps=5), quiet=True)
    assert (whole.run / "model.safetensors").read_bytes() == (longer.run / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_killed_after_its_last_checkpoint_is_finished_as_it_was(tmp_path):
    options = dict(arch="resnet20", width=2, steps=4, batch_size=32)
    run = fit(TrainConfig(**options, out=tmp_path / "run"), quiet=True).run
    before = {name: (run / name).read_bytes() for name in ("model.safetensors", "metrics.jsonl")}
    (run / "summary.json").unlink()
    (run / "model.safetensors").unlink()
    fit(TrainConfig(**options, out=run), quiet=True)
    assert {name: (run / name).read_bytes() for name in before} == before
    assert (run / "summary.json").exists()
