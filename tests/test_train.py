"""The command train.py as a user runs it."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def train(*arguments, cwd=ROOT, cache=None):
    environment = dict(os.environ)
    if cache is not None:
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, "-W", "error", str(ROOT / "train.py"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_the_command_line_got_wrong_fits_one_line_on_any_terminal(encoding, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = train("--arch", "resnet20", "--epoch", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "train.py: error: Unrecognized options: --epoch, 2; did you mean '--epochs'?\n"


def test_exit_code_and_no_traceback_from_the_shell(tmp_path):
    done = train("--arch", "densnet121", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "train.py: error: unknown arch 'densnet121'; did you mean 'densenet121'?\n"
    assert not list(tmp_path.iterdir())


def test_help_lists_the_architectures_by_family():
    done = train("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for shown in ("DenseNet-BC, 32 px", "densenet_bc_100_12", "ResNeXt, 224 px", "resnet1202", "--batch-size INT"):
        assert shown in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 140


@pytest.mark.slow
def test_a_run_from_the_shell(tmp_path):
    done = train("--arch", "resnet20", "--steps", "2", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 2
    assert "test accuracy" in done.stdout


@pytest.mark.slow
def test_too_few_descriptors_end_a_run_in_one_line(tmp_path):
    """Threads of Orbax hang without descriptors; the process ends without them."""
    options = ["--arch", "resnet20", "--width", "2", "--data", "fake:8x8x3:4:64", "--batch-size", "16", "--steps", "4"]
    command = ["bash", "-c", 'ulimit -n 16; exec "$@"', "bash", sys.executable, str(ROOT / "train.py"), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("train.py: error: ")
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_a_run_goes_on_when_its_reader_has_gone(tmp_path):
    options = "--arch resnet20 --width 2 --data fake:8x8x3:4:64 --batch-size 16 --steps 4 --out run"
    command = f"set -o pipefail; {sys.executable} {ROOT / 'train.py'} {options} | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("device")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "options", "accuracy", "limit", "more_seeds"),
    [
        ("densenet121", [], 0.97, 180, 0),
        # Processors round differently, and one seed in ten ends below 97 %, so the mean of seeds is checked.
        ("resnet18", [], 0.97, 180, 2),
        ("resnet20", ["--dtype", "bfloat16"], 0.96, None, 0),
    ],
)
def test_the_main_job(arch, options, accuracy, limit, more_seeds, tmp_path, all_of_llvm):
    """Trains with all defaults and an empty cache. The limit is 180 seconds on two free cores; other tests slow it."""
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = train("--arch", arch, *options, "--out", "run", cwd=tmp_path, cache=tmp_path / "cache")
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    accuracies = [summary["test_accuracy"]]
    for seed in range(1, 1 + more_seeds):
        out = f"run{seed}"
        again = train("--arch", arch, "--seed", str(seed), "--out", out, cwd=tmp_path, cache=tmp_path / "cache")
        assert again.returncode == 0, again.stderr
        accuracies.append(json.loads((tmp_path / out / "summary.json").read_text())["test_accuracy"])
    assert sum(accuracies) / len(accuracies) >= accuracy, accuracies
    assert summary["test_examples"] == 360
    if limit is not None:
        assert cpu_seconds <= 2 * limit, f"{cpu_seconds:.0f} s of a core"


@pytest.mark.slow
def test_the_second_start_finds_what_was_compiled(tmp_path):
    seconds = []
    for name in ("first", "second"):
        done = train("--arch", "plain20", "--steps", "1", "--out", name, cwd=tmp_path, cache=tmp_path / "cache")
        assert done.returncode == 0, done.stderr
        seconds.append(json.loads((tmp_path / name / "summary.json").read_text())["compile_seconds"])
        programs = {path.name for path in (tmp_path / "cache").iterdir() if path.name.endswith("-cache")}
        assert programs
        if name == "first":
            before = programs
    assert programs == before
    assert seconds[1] < seconds[0]
