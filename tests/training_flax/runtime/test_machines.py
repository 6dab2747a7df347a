"""Machines as they are: file systems without locks, settings of JAX by the environment, and outputs that end."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from common_flax.backend import check_settings, usual_settings
from training_flax import Stopped, StopRequest, TrainConfig, evaluate, fit, open_dataset, predict
from training_flax.run.folder import InUse, locked, random_numbers
from training_flax.runtime.locks import NO_LOCKS
from training_flax.runtime.random_numbers import RandomNumbers, by_shape, current, drawn_by
from training_flax.runtime.signals import STOP

ROOT = Path(__file__).parents[3]
OPTIONS = dict(arch="resnet20", data="fake:8x8x3:4:64", width=2, steps=6, batch_size=16, recipe="quick-digits")
HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print(flush=True)
input()
"""


def missing(code):
    def call(*_):
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("code", NO_LOCKS)
def test_without_flock_the_locks_of_posix_keep_a_second_command_out(code, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(fcntl, "flock", missing(code))
    with locked(tmp_path):
        pass
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / ".lock")], **pipes)
    other.stdout.readline()
    with pytest.raises(InUse, match="is in use by another process that trains"), locked(tmp_path):
        pass
    other.communicate(b"\n")
    with locked(tmp_path):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("code", NO_LOCKS)
def test_without_any_locks_a_line_says_so(code, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(fcntl, "flock", missing(code))
    monkeypatch.setattr(fcntl, "lockf", missing(errno.ENOLCK))
    with locked(tmp_path):
        pass
    said = capfd.readouterr().err
    assert said.startswith(f"out {str(tmp_path)!r} cannot be locked (")
    assert said.endswith("): start no second command in it while this one runs\n")
    assert said.count("\n") == 1


def command(*words, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_DISABLE_MOST")}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "train.py"), *given, *map(str, words)],
        env=clean | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no compiler of C")
def test_a_run_is_trained_where_the_c_library_has_no_flock(tmp_path):
    """TensorStore, which writes the checkpoints, locks files too."""
    source = "#include <errno.h>\nint flock(int file, int what) { errno = 38; return -1; }\n"
    (tmp_path / "flock.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "flock.so", tmp_path / "flock.c"], check=True)
    done = command("--out", tmp_path / "run", LD_PRELOAD=str(tmp_path / "flock.so"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "summary.json").exists()


SETTINGS = {
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_TRANSFER_GUARD_DEVICE_TO_HOST": "disallow_explicit",
    "JAX_DEBUG_NANS": "1",
    "JAX_ENABLE_X64": "1",
    "JAX_LEGACY_PRNG_KEY": "error",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_for_other_programs_do_not_stop_a_run(name, tmp_path):
    done = command("--out", tmp_path / "run", **{name: SETTINGS[name]})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["JAX_DISABLE_JIT", "JAX_NO_TRACING", "JAX_NO_EXECUTION"])
def test_settings_without_programs_are_refused_at_the_start(name, tmp_path):
    done = command("--out", tmp_path / "run", **{name: "1"})
    told = f"train.py: error: {name} is set, and this project runs compiled programs alone; unset it\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)
    assert not (tmp_path / "run").exists()


ENTRIES = ["train.py", *(f"-m {name}" for name in ("training_flax", "weights_flax", "theory_flax"))]
ENTRIES += [f"-m training_flax.{name}" for name in ("predict", "prepare", "compare")]
WRONG = {
    "JAX_DEFAULT_PRNG_IMPL": "foo",
    "JAX_NUMPY_RANK_PROMOTION": "bogus",
    "JAX_ENABLE_X64": "maybe",
    "JAX_TRANSFER_GUARD": "",
    "JAX_COMPILATION_CACHE_MAX_SIZE": "x",
    "JAX_DEFAULT_DEVICE": "foo",
}


@pytest.mark.parametrize(
    ("entry", "name"),
    [*((entry, "JAX_DEFAULT_PRNG_IMPL") for entry in ENTRIES), *((ENTRIES[0], name) for name in WRONG)],
)
def test_a_setting_that_jax_does_not_know_is_one_line(entry, name, tmp_path):
    """JAX reads its settings while it is imported."""
    words = [str(ROOT / "train.py")] if entry == "train.py" else entry.split()
    done = subprocess.run(
        [sys.executable, "-W", "error", *words, "--help"],
        env=os.environ | {"PYTHONPATH": str(ROOT), name: WRONG[name]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    start = (
        f"{words[-1].rpartition('/')[2] if entry == 'train.py' else entry.split('.')[-1].split()[-1]}: error: JAX does "
    )
    assert done.stderr.startswith(start + "not take a setting of the environment (")
    assert done.stderr.count("\n") == 1
    assert name in done.stderr or "jax.default_device" in done.stderr


TRAINING = dict(arch="resnet20", data="fake:8x8x3:4:64", width=2, batch_size=16, recipe="quick-digits", ema=0.9)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True], ids=["fresh", "going on"])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_types_of_64_bits_are_used_where_a_run_names_them(dtype, stopped, tmp_path):
    """JAX_ENABLE_X64, set for other programs, changes no number."""
    bits = {}
    for x64 in (dtype == "float64", True):
        config = TrainConfig(
            **TRAINING, dtype=dtype, augment=("pad-crop", "flip"), steps=6, out=tmp_path / str(len(bits))
        )
        if stopped:
            with jax.enable_x64(dtype == "float64"), pytest.raises(Stopped):
                fit(config, quiet=True, stop=AfterThree())
        with jax.enable_x64(x64):
            run = fit(config, quiet=True).run
        saved = (run / "model.safetensors").read_bytes()
        bits[len(bits)] = (saved, (run / "metrics.jsonl").read_text().count("\n"))
    assert bits[0] == bits[1]


@pytest.mark.slow
def test_evaluation_and_prediction_have_the_types_of_the_network():
    from weights_flax import build_model

    model, dataset = build_model("resnet20", width=2, num_classes=4), open_dataset("fake:8x8x3:4:16")
    variables = jax.device_get(model.init(jax.random.key(0), jax.numpy.zeros((1, 8, 8, 3))))
    results = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            evaluation = evaluate(model, variables, dataset)
            predictions = predict(model, variables, dataset.test.images, mean=dataset.mean, std=dataset.std)
            results.append([np.asarray(part) for part in (*evaluation, *predictions)])
    for one, two in zip(*results, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
        wider = model.clone(dtype=np.float64, param_dtype=np.float64)
        double = predict(wider, wide, dataset.test.images, mean=dataset.mean, std=dataset.std)
        assert double.probabilities.dtype == np.float64


def test_settings_are_given_back():
    with jax.numpy_rank_promotion("raise"):
        with usual_settings():
            jax.numpy.ones((2, 3)) * jax.numpy.ones(3)
        with pytest.raises(ValueError, match="rank_promotion"):
            jax.numpy.ones((2, 3)) * jax.numpy.ones(3)
    with jax.disable_jit(), pytest.raises(ValueError, match="JAX_DISABLE_JIT is set"):
        check_settings()


def test_an_evaluation_takes_strict_settings():
    from weights_flax import build_model

    model, dataset = build_model("resnet20", width=2, num_classes=4), open_dataset("fake:8x8x3:4:16")
    variables = model.init(jax.random.key(0), jax.numpy.zeros((1, 8, 8, 3)))
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.transfer_guard("disallow"):
        assert evaluate(model, variables, dataset).predictions.shape == (256,)


class AfterThree(StopRequest):
    """A request to stop at the third look of an armed one."""

    looks = 0

    @property
    def stop_signal(self):
        self.looks += self.armed
        return STOP + signal.SIGTERM if self.looks >= 3 else 0

    @stop_signal.setter
    def stop_signal(self, value):
        pass


KINDS = [("threefry2x32", True), ("rbg", True), ("threefry2x32", False), ("unsafe_rbg", True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (KINDS[0], KINDS[1]),
        pytest.param(KINDS[1], KINDS[0], marks=pytest.mark.slow),
        pytest.param(KINDS[2], KINDS[0], marks=pytest.mark.slow),
        pytest.param(KINDS[3], KINDS[1], marks=pytest.mark.slow),
    ],
)
def test_a_run_keeps_its_kind_of_random_numbers(first, second, tmp_path):
    config = TrainConfig(**OPTIONS, augment=("pad-crop", "flip"))
    runs = []
    for name, then in (("whole", first), ("stopped", second)):
        config = TrainConfig(**OPTIONS, augment=("pad-crop", "flip"), out=tmp_path / name)
        if name == "stopped":
            with drawn_by(RandomNumbers(*first)), pytest.raises(Stopped):
                fit(config, quiet=True, stop=AfterThree())
        with drawn_by(RandomNumbers(*then)):
            runs.append(fit(config, quiet=True).run)
        assert json.loads((runs[-1] / "config.json").read_text())["random"]["impl"] == first[0]
        assert random_numbers(runs[-1]) == first
    whole, stopped = ((run / "model.safetensors").read_bytes() for run in runs)
    assert whole[-5000:] == stopped[-5000:]  # the marks in their cards differ where first and second do


def test_keys_of_older_runs_are_told_by_their_shape():
    assert by_shape((2,)) == current()
    assert by_shape((4,)).impl == "rbg"
    with drawn_by(RandomNumbers("unsafe_rbg", True)):
        assert by_shape((4,)).impl == "unsafe_rbg"
        assert by_shape((2,)).impl == "threefry2x32"
    with (
        pytest.raises(ValueError, match="of 'dice', which this JAX does not have"),
        drawn_by(RandomNumbers("dice", True)),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection", ["| head -c 1 > /dev/null; exit ${PIPESTATUS[0]}", "> /dev/full", ">&-", "2>&-"]
)
def test_a_run_goes_on_when_nobody_reads_it(redirection, tmp_path):
    words = " ".join(f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items())
    line = f"{sys.executable} {ROOT / 'train.py'} {words} --out {tmp_path / 'run'} {redirection}"
    done = subprocess.run(
        ["bash", "-c", line], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["| head -c 0; exit ${PIPESTATUS[0]}", "> /dev/full", ">&-"])
def test_a_file_is_written_when_nobody_reads_of_it(redirection, tmp_path):
    words = f"-m weights_flax export --arch resnet20 --format torch --out {tmp_path / 'weights.pt'}"
    line = f"{sys.executable} {words} {redirection}"
    done = subprocess.run(
        ["bash", "-c", line], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "weights.pt").exists()
