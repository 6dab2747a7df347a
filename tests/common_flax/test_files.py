"""A file is whole under its name, or not there: the writer, and all that write by it."""

import os
import sys
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import pytest

from common_flax.files import whole_file
from resnet_flax import resnet20
from theory_flax.base.results import save_result
from training_flax.run.folder import write_json
from weights_flax import export, save_weights
from weights_flax.__main__ import main

resource = pytest.importorskip("resource")  # Unix has it
needs_limits = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits to a file's size are Linux's")


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as file:
        file.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), whole_file(path) as file:
        file.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_permissions_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a.txt") as file:
            file.write_text("text")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


@contextmanager
def file_size_limit(size):
    """As `ulimit -f`, or a quota, has it: writing beyond it fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def network():
    model = resnet20(width=8)
    return model, model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)


def export_as(format):
    return lambda network, path: export(*network, path, format=format, image_shape=(32, 32, 3))


WRITERS = {
    "a.safetensors": lambda network, path: save_weights(*network, path),
    "a.npz": lambda network, path: save_weights(*network, path),
    "a.pt": lambda network, path: save_weights(*network, path),
    "a.msgpack": lambda network, path: save_weights(*network, path),
    "a.stablehlo": export_as("stablehlo"),
    "a.pth": export_as("torch"),
    "config.json": lambda network, path: write_json(path, {"text": "a" * 50_000}),
    "result.json": lambda network, path: save_result({"text": "a" * 50_000}, path),
}


@needs_limits
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_leaves_nothing_behind(name, network, tmp_path):
    with file_size_limit(20_000), pytest.raises((OSError, ValueError), match="File too large"):
        WRITERS[name](network, tmp_path / name)
    assert not list(tmp_path.iterdir())


@needs_limits
@pytest.mark.parametrize("name", ["a.npz", "a.pt", "a.msgpack", "a.safetensors"])
def test_convert_says_so_in_one_line(name, network, tmp_path, capsys):
    save_weights(*network, tmp_path / "given.safetensors")
    with file_size_limit(20_000):
        code = main(["convert", str(tmp_path / "given.safetensors"), "--out", str(tmp_path / name)])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("weights_flax: error: ") and "File too large" in captured.err
    assert captured.err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["given.safetensors"]


@pytest.mark.parametrize("name", WRITERS)
def test_every_file_can_be_read_as_the_umask_allows(name, network, tmp_path):
    before = os.umask(0o022)
    try:
        WRITERS[name](network, tmp_path / name)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o644
