"""The installed package is the product: a wheel without extras, in an environment of its own, from an empty folder."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import common_flax

ROOT = Path(__file__).parent.parent
SMALL = ["--arch", "resnet20", "--width", "4", "--batch-size", "32"]
# In this order: each finds what those before it have left.
COMMANDS = {
    "train": ["training_flax", *SMALL, "--steps", "2", "--out", "run"],
    "resume": ["training_flax", *SMALL, "--steps", "3", "--extend", "--out", "run"],
    "evaluate": ["training_flax", *SMALL, "--eval-only", "--out", "run"],
    "predict": ["training_flax.predict", "--run", "run", "photo.png", "--picture", "predicted.png"],
    "compare": ["training_flax.compare", "run"],
    "inspect": ["weights_flax", "inspect", "run"],
    "convert": ["weights_flax", "convert", "run", "--out", "network.npz"],
    "list": ["weights_flax", "list", "resnet50"],
    "export": ["weights_flax", "export", "--run", "run", "--format", "stablehlo", "--out", "network.stablehlo"],
    "theory": ["theory_flax", "architectures", "--quick"],
}
LEFT = [
    "run/summary.json",
    "predicted.png",
    "compare.png",
    "network.npz",
    "network.stablehlo",
    "theory/architectures.png",
]
# What needs an extra, and which.
EXTRAS = {
    "onnx": ["weights_flax", "export", "--run", "run", "--format", "onnx", "--out", "network.onnx"],
    "tensorboard": ["training_flax", *SMALL, "--tensorboard"],
    "wandb": ["training_flax", *SMALL, "--wandb", "project"],
    "prepare": ["training_flax.prepare", "cifar10", "--data-dir", "data"],
    "hub": ["weights_flax", "inspect", "hf://owner/name"],
    "keras": ["weights_flax", "inspect", "keras.h5"],
}


def run(*command, cwd, check=True):
    # Not the clone, which tests have on their path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Python of an environment that has the wheel, and what the wheel asks for."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"  # a copy: a build leaves files where it is made, and takes those of earlier ones
    for package in ROOT.glob("*_flax"):
        shutil.copytree(package, source / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", wheel, cwd=folder)
    return python


@pytest.mark.slow
def test_the_documented_commands_run_from_an_empty_folder(installed, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    code = "import training_flax as t, theory_flax.__main__ as theory\n"
    code += "for name in theory.CLAIMS: theory.find(name)\n"
    code += "print(t.__version__, t.__file__)"
    version, file = run(installed, "-W", "error", "-c", code, cwd=tmp_path).stdout.split()
    assert version == common_flax.__version__
    assert Path(file).is_relative_to(installed.parents[1])
    for module, *options in COMMANDS.values():
        run(installed, "-W", "error", "-m", module, *options, cwd=tmp_path)
    assert [name for name in LEFT if not (tmp_path / name).stat().st_size] == []
    for extra, (module, *options) in EXTRAS.items():
        done = run(installed, "-W", "error", "-m", module, *options, cwd=tmp_path, check=False)
        assert done.returncode == 2, (extra, done.stdout, done.stderr)
        assert done.stderr.endswith(f": pip install 'resnet-densenet-flax[{extra}]'\n"), (extra, done.stderr)
        assert done.stderr.count("\n") == 1, (extra, done.stderr)


def test_what_is_installed_has_the_version_of_the_source():
    assert importlib.metadata.version("resnet-densenet-flax") == common_flax.__version__


def test_data_files_are_in_the_wheel():
    with (ROOT / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    for path in ROOT.glob("*_flax/**/*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            package = ".".join(path.relative_to(ROOT).parts[:-1])
            assert path.name in [*data["*"], *data.get(package, ())], path
