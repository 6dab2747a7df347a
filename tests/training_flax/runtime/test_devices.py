"""Equal numbers on any number of devices and processes, with jit and pmap."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from training_flax.runtime.compilation import is_known

ROOT = Path(__file__).parents[3]
NETWORKS = {
    "resnet20": ["--arch", "resnet20", "--width", "4"],
    "densenet_40_12": ["--arch", "densenet_40_12", "--growth-rate", "2", "--dropout", "0.2"],
}
SMALL = ["--image-size", "8"]  # pixels, the size of the original digits
# Everything that could differ between devices: augmentation, mixing, micro-batches, averages, dropout.
OPTIONS = ["--steps", "5", "--batch-size", "32", "--mixup", "0.2", "--accumulate", "2", "--ema", "0.5"]
OPTIONS += ["--augment", "pad-crop:1", "flip"]
LAYOUTS = {
    "one": (1, []),
    "jit": (4, []),
    "pmap": (4, ["--parallel", "pmap"]),
    "sharded state": (4, ["--shard-state"]),
    "two processes": (2, ["--shard-state"]),
}


# Seconds that a device may wait for the others before XLA ends the process.
FLAGS = "--xla_cpu_collective_call_terminate_timeout_seconds=60"
if is_known("xla_cpu_use_fusion_emitters", False):  # saves a quarter of the compile time if XLA still has this option
    FLAGS += " --xla_cpu_use_fusion_emitters=false"


def start(devices, *arguments):
    environment = os.environ | {
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "small_run.py"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(layout, *arguments):
    """Runs train.py in one or two processes; returns its output."""
    devices, options = LAYOUTS[layout]
    processes = [[]]
    if layout == "two processes":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        processes = [["--coordinator", address, "--num-processes", "2", "--process-id", str(i)] for i in range(2)]
    started = [start(devices, *SMALL, *arguments, *options, *own) for own in processes]
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(printed)
    return printed[0]


def tensors_of(run):
    """Returns parameters and statistics, plain and averaged, in float64."""
    files = {name: load_file(run / f"{name}.safetensors") for name in ("model", "model_ema")}
    tensors = {(name, key): tensor for name, file in files.items() for key, tensor in file.items()}
    return {key: tensor.astype(np.float64) for key, tensor in tensors.items() if tensor.dtype.kind == "f"}


def largest_difference(run, other):
    """Returns the largest difference over all tensors, relative to the largest number of each."""
    ours, theirs = tensors_of(run), tensors_of(other)
    assert ours.keys() == theirs.keys()
    return max(np.abs(ours[key] - theirs[key]).max() / np.abs(theirs[key]).max() for key in ours)


def whole_difference(run, other):
    """Returns the distance of all weights as one vector, relative to its length."""
    ours, theirs = (np.concatenate([t.ravel() for t in tensors_of(path).values()]) for path in (run, other))
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("arch", NETWORKS)
def test_five_steps_give_the_same_weights_everywhere(arch, tmp_path):
    for layout in LAYOUTS:
        run(layout, *NETWORKS[arch], *OPTIONS, "--dtype", "float64", "--out", str(tmp_path / layout))
        assert json.loads((tmp_path / layout / "summary.json").read_text())["test_examples"] == 360
        assert largest_difference(tmp_path / layout, tmp_path / "one") <= 1e-10, layout


@pytest.mark.slow
def test_virtual_devices_do_not_wait_for_each_other_for_ever(tmp_path):
    """Takes forty steps of many small collectives: with one thread per device five runs of six deadlocked."""
    run("sharded state", *NETWORKS["resnet20"], *OPTIONS, "--steps", "40", "--out", str(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("arch", NETWORKS)
def test_five_steps_in_float32_give_nearly_the_same(arch, tmp_path):
    """Rounding switches single ReLUs, so some gradients differ by a hundredth; weights do not."""
    for layout in ("one", "jit", "pmap"):
        run(layout, *NETWORKS[arch], *OPTIONS, "--lr", "0.01", "--out", str(tmp_path / layout))
        assert whole_difference(tmp_path / layout, tmp_path / "one") <= 1e-3, layout


RATE_OF_ANY_LENGTH = [*NETWORKS["resnet20"], "--batch-size", "32", "--ema", "0.5", "--dtype", "float64"]
RATE_OF_ANY_LENGTH += ["--schedule", "constant", "--warmup", "0"]


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory):
    """Trains on one device without a stop."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run("one", *RATE_OF_ANY_LENGTH, "--steps", "6", "--out", str(out))
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("sharded state", "one"), ("one", "jit"), ("pmap", "two processes")])
def test_a_run_goes_on_with_other_devices(first, then, six_steps, tmp_path):
    run(first, *RATE_OF_ANY_LENGTH, "--steps", "3", "--out", str(tmp_path / "run"))
    told = run(then, *RATE_OF_ANY_LENGTH, "--steps", "6", "--extend", "--out", str(tmp_path / "run"))
    assert "going on after step 3 of 6" in told
    assert largest_difference(tmp_path / "run", six_steps) <= 1e-10


@pytest.mark.slow
def test_local_statistics_are_each_devices_own(tmp_path):
    """Four devices equal one device with global statistics, and differ with local ones."""
    options = [*NETWORKS["resnet20"], "--steps", "3", "--batch-size", "16", "--dtype", "float64", "--ema", "0.5"]
    run("one", *options, "--out", str(tmp_path / "one"))
    run("jit", *options, "--batch-norm", "local", "--out", str(tmp_path / "jit"))
    run("pmap", *options, "--batch-norm", "local", "--out", str(tmp_path / "pmap"))
    assert largest_difference(tmp_path / "jit", tmp_path / "one") > 1e-3
    assert largest_difference(tmp_path / "jit", tmp_path / "pmap") <= 1e-10


@pytest.mark.slow
def test_gradients_may_be_added_in_bfloat16(tmp_path):
    """Each sum is rounded to a 256th; three steps move the weights by less than that of their length."""
    options = [*NETWORKS["resnet20"], "--steps", "3", "--batch-size", "16", "--lr", "0.01", "--ema", "0.5"]
    run("one", *options, "--out", str(tmp_path / "one"))
    run("jit", *options, "--reduce-dtype", "bfloat16", "--out", str(tmp_path / "jit"))
    assert 1e-7 < whole_difference(tmp_path / "jit", tmp_path / "one") < 2**-8


LOWERED = """
import re
import jax
from layers_flax import target_backend
from training_flax import TrainConfig
from training_flax.run.plan import plan
from training_flax.run.programs import lower_train_step
from training_flax.runtime.devices import Devices

def sums(reduce_dtype, backend, **options):
    with target_backend(backend):
        devices = Devices(devices=jax.devices()[:2], **options)
        assert devices.count == 2
        config = TrainConfig("resnet20", width=4, steps=1, batch_size=8, dtype="bfloat16", reduce_dtype=reduce_dtype)
        text = lower_train_step(plan(config, devices=devices)).as_text()
    added = re.findall(r"stablehlo.all_reduce.*?}\\) : \\((.*?)\\) ->", text, re.S)
    return [each[15:-1] for each in added if each.startswith("tensor<3x3x3x4x")] if added else "XLA's"

print(sums("float32", "cpu"), sums("float32", "tpu"), sums("bfloat16", "tpu"), sums("float32", "cpu", each_device=True))
"""


@pytest.mark.slow
def test_on_accelerators_each_device_runs_its_own_program():
    """Which devices and which backend is told; the gradient of the first kernel shows in which type it is added."""
    environment = os.environ | {"XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", LOWERED]
    done = subprocess.run(command, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == "XLA's ['f32'] ['bf16'] ['f32']\n", done.stderr
