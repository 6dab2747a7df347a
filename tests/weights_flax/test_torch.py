"""PyTorch loads what is exported: torchvision's and timm's networks, by their own names, give the same logits."""

import json
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
from weights_flax.inspect import torch_shapes

pytestmark = pytest.mark.slow

JOBS = [
    *(("torchvision", arch) for arch in ("resnet50", "densenet121", "vgg19_bn", "resnext50_32x4d")),
    *(("timm", arch) for arch in ("resnet50", "densenet121", "wide_resnet50_2")),
]
READER = Path(__file__).parent.parent / "helpers" / "torch_reader.py"


@pytest.fixture(scope="module")
def torch_python():
    """A Python with PyTorch: $TORCH_PYTHON, or one in a virtual environment of its own, which is made once."""
    if "TORCH_PYTHON" in os.environ:
        return os.environ["TORCH_PYTHON"]
    folder = platformdirs.user_cache_path("resnet-densenet-flax") / "torch-2.13.0"
    python = folder / "bin" / "python"
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


@pytest.fixture(scope="module")
def logits(torch_python, tmp_path_factory):
    """Ours and theirs, by library and architecture."""
    folder = tmp_path_factory.mktemp("torch")
    images = references.images().astype(np.float32)[:2]
    np.save(folder / "images.npy", images.transpose(0, 3, 1, 2))
    ours = {}
    for arch in {arch for _, arch in JOBS}:
        model = build_model(arch)
        state = {name: references.tensor(name, shape) for name, shape in torch_shapes(model).items()}
        variables = from_torch(model, {name: value.astype(np.float32) for name, value in state.items()})
        export(model, variables, folder / f"{arch}.pt", format="torch")
        (folder / f"timm-{arch}.pt").symlink_to(folder / f"{arch}.pt")
        ours[arch] = np.asarray(jax.jit(model.apply)(variables, images))
    files = [f"{'timm-' if library == 'timm' else ''}{arch}.pt" for library, arch in JOBS]
    jobs = [[file, *job] for file, job in zip(files, JOBS, strict=True)]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run([torch_python, READER, folder], check=True)
    return {job: (ours[job[1]], np.load(folder / f"{file}.npy")) for file, job in zip(files, JOBS, strict=True)}


@pytest.mark.parametrize("job", JOBS, ids="-".join)
def test_the_same_logits(logits, job):
    ours, theirs = logits[job]
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-5
