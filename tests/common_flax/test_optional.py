"""Libraries of extras: one line says which extra installs what is missing."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from common_flax.optional import DISTRIBUTION, library

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError) as error:
        library("h5py", extra="keras", purpose="a file of Keras")
    assert str(error.value) == "a file of Keras needs h5py: pip install 'resnet-densenet-flax[keras]'"


def test_what_a_library_itself_lacks_is_named(tmp_path, monkeypatch):
    """TensorFlow Datasets is there without importlib_resources, which it does not declare."""
    (tmp_path / "wants_more.py").write_text("import importlib_resources\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "importlib_resources", None)
    with pytest.raises(ValueError, match=r"^a data set of TFDS needs importlib_resources: pip install "):
        library("wants_more", extra="tfds", purpose="a data set of TFDS")


def test_every_extra_that_is_named_is_there():
    assert PROJECT["name"] == DISTRIBUTION
    named = [
        (file, extra)
        for package in ROOT.glob("*_flax")
        for file in package.rglob("*.py")
        for extra in re.findall(r'extra="(\w+)"', file.read_text())
    ]
    assert len(named) >= 5
    assert [one for one in named if one[1] not in PROJECT["optional-dependencies"]] == []
