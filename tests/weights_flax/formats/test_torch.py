"""Exported weights in PyTorch: torchvision's and timm's networks load them by their own names, with the same logits."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import platformdirs
import pytest
import references

from weights_flax import build_model, export, from_torch
from weights_flax.io.inspect import torch_shapes

pytestmark = pytest.mark.slow

JOBS = [
    *(("torchvision", arch) for arch in ("resnet50", "densenet121", "vgg19_bn", "resnext50_32x4d")),
    *(("timm", arch) for arch in ("resnet50", "densenet121", "wide_resnet50_2")),
]
READER = Path(__file__).parents[2] / "helpers" / "torch_reader.py"


@pytest.fixture(scope="module")
def torch_python():
    """Returns a Python with PyTorch: $TORCH_PYTHON, or one in its own virtual environment, which is made once."""
    if "TORCH_PYTHON" in os.environ:
        return os.environ["TORCH_PYTHON"]
    cache = platformdirs.user_cache_path("resnet-densenet-flax", ensure_exists=True)
    # PyPI has a different PyTorch for each Python version, so the folder's name holds the version.
    name = "torch-2.13.0-python{}.{}".format(*sys.version_info)
    folder = cache / name
    python = folder / "bin" / "python"
    # Tests run in parallel: the second one waits for the first, and then uses its environment.
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            others = ["numpy", "pillow", "pyyaml", "huggingface_hub", "safetensors"]
            try:
                subprocess.run([*pip, "torch==2.13.0", *others], check=True)
                subprocess.run([*pip, "--no-deps", "torchvision", "timm"], check=True)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"PyTorch cannot be installed: {error}")
            (folder / "whole").touch()
    return python


@pytest.mark.parametrize(("library", "arch"), JOBS, ids=map("-".join, JOBS))
def test_the_same_logits(torch_python, tmp_path, library, arch):
    images = references.images().astype(np.float32)[:2]
    np.save(tmp_path / "images.npy", images.transpose(0, 3, 1, 2))
    model = build_model(arch)
    state = {name: references.tensor(name, shape) for name, shape in torch_shapes(model).items()}
    variables = from_torch(model, {name: value.astype(np.float32) for name, value in state.items()})
    export(model, variables, tmp_path / "weights.pt", format="torch")
    subprocess.run([torch_python, READER, tmp_path, library, arch], check=True)
    ours, theirs = np.asarray(jax.jit(model.apply)(variables, images)), np.load(tmp_path / "logits.npy")
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-5
