"""Permissions of the files that are written: those that the user's umask gives, whatever library writes them."""

import os

import pytest
from drawn import drawn

from resnet_flax import resnet20
from training_flax import TrainConfig, fit
from weights_flax import export, save_weights
from weights_flax.__main__ import main

MODEL = resnet20(width=2, num_classes=3)
ENDINGS = ["safetensors", "npz", "pt", "pth", "th", "msgpack"]


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o027], ids=oct)
def allowed(request):
    """Sets a umask, and gives the permissions of a new file under it."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def permissions(path):
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("ending", ENDINGS)
def test_saved_weights(allowed, ending, tmp_path):
    path = save_weights(MODEL, drawn(MODEL), tmp_path / f"w.{ending}")
    assert permissions(path) == allowed
    assert main(["convert", str(path), "--out", str(tmp_path / "again.safetensors")]) == 0
    assert permissions(tmp_path / "again.safetensors") == allowed


@pytest.mark.parametrize("format", ["stablehlo", "onnx", "torch"])
def test_exported_networks(allowed, format, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnx")
    export(MODEL, drawn(MODEL), tmp_path / "net", format=format, image_shape=(32, 32, 3))
    assert permissions(tmp_path / "net") == allowed


def test_a_file_that_is_written_over_gets_them_too(allowed, tmp_path):
    path = tmp_path / "w.safetensors"
    path.touch(mode=0o600)
    save_weights(MODEL, drawn(MODEL), path)
    assert permissions(path) == allowed


@pytest.mark.slow
def test_files_of_a_run(tmp_path):
    before = os.umask(0o022)
    try:
        out = tmp_path / "run"
        options = dict(width=2, data="fake:8x8x3:4:32", batch_size=16, augment=(), schedule="constant", warmup=0.0)
        fit(TrainConfig("resnet20", **options, steps=2, ema=0.5, out=out), quiet=True)
        for path in out.iterdir():
            if path.is_file():
                assert permissions(path) == 0o644, path.name
    finally:
        os.umask(before)
