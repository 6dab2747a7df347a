"""Folders in Orbax' format that lead elsewhere or ask for much: each is refused before Orbax reads it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from drawn import drawn

from resnet_flax import resnet20
from weights_flax import load_weights

ROOT = Path(__file__).parents[3]
MODEL = resnet20(width=4)
CHILD = '''
import json, sys, time
from pathlib import Path
from weights_flax import load_weights
from resnet_flax import resnet20
def peak():
    """Peak memory of this process in MB; getrusage would begin with that of its parent."""
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    start, said = time.process_time(), None
    try:
        load_weights(resnet20(width=4), path)
    except ValueError as error:
        said = str(error)
    found[path.name] = said, time.process_time() - start, peak()
print(json.dumps(found))
'''


def array(**changes):
    def change(folder):
        file = folder / "params.conv1.kernel" / ".zarray"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def description(change):
    def changed(folder):
        file = folder / "_METADATA"
        content = json.loads(file.read_text())
        change(content["tree_metadata"])
        file.write_text(json.dumps(content))

    return changed


def renamed(name):
    """Changes the name of the first array."""
    return description(lambda tree: next(iter(tree.values()))["key_metadata"][0].update(key=name))


def instead(name, make):
    """Puts something else in the place of a file or a folder."""

    def change(folder):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        make(path)

    return change


def link_to(target):
    return lambda path: path.symlink_to(target)


def all_arrays(text):
    return lambda folder: [file.write_text(text) for file in folder.glob("array_metadatas/*")]


FOLDERS = {
    "an array of terabytes": (array(shape=[2**20, 2**20, 3, 4]), "its tensors would take 52,776,"),
    "in one piece": (array(shape=[2**20, 2**20, 3, 4], chunks=[2**20, 2**20, 3, 4]), "its tensors would take"),
    "in pieces that are larger": (array(chunks=[2**14, 2**14, 3, 4]), "in pieces of (16384, 16384, 3, 4)"),
    "of which nothing is written": (array(shape=[2**15, 2**15, 3, 4], fill_value=0.0), "its tensors would take"),
    "of another shape": (array(shape=[3, 3, 3, 5], chunks=[3, 3, 3, 5]), "misshapen: conv1.weight"),
    "a shape below zero": (array(shape=[-3, 3, 3, 4]), ""),
    "a shape of text": (array(shape="large"), ""),
    "an unknown compressor": (array(compressor={"id": "exec", "command": "touch x"}), ""),
    "a type of objects": (array(dtype="|O"), ""),
    "an array above": (renamed("../../other"), "the name '../../other' of an array leads elsewhere"),
    "an array at the root": (renamed("/etc"), "the name '/etc' of an array leads elsewhere"),
    "an array of this folder": (renamed("."), "the name '.' of an array leads elsewhere"),
    "an array at another host": (renamed("http://host/x"), "the name 'http://host/x' of an array leads elsewhere"),
    "a name with a zero byte": (renamed("a\0b"), "of an array leads elsewhere"),
    "lists in lists": (lambda folder: (folder / "_METADATA").write_text("[" * 10**5), "nested too deep"),
    "no description": (lambda folder: (folder / "_METADATA").write_text("{}"), ""),
    "a description of 64 GB": (
        lambda folder: os.truncate(folder / "_METADATA", 2**36),
        "its '_METADATA' has more than 25,165,824 bytes",
    ),
    "an array's description of 64 GB": (
        lambda folder: os.truncate(folder / "params.conv1.kernel" / ".zarray", 2**36),
        "its 'params.conv1.kernel/.zarray' has more than",
    ),
    "a list of values of 64 GB": (
        lambda folder: (
            (folder / "manifest.ocdbt").touch(),
            os.truncate(folder / "manifest.ocdbt", 2**36),
        ),
        "its 'manifest.ocdbt' has more than",
    ),
    "a link to another folder": (
        instead("params.conv1.kernel", link_to("/etc")),
        "its link 'params.conv1.kernel' leads out of the folder",
    ),
    "a link to a file elsewhere": (
        instead("params.conv1.kernel/.zarray", link_to("/etc/hostname")),
        "its link 'params.conv1.kernel/.zarray' leads out of the folder",
    ),
    "a link to the folder above": (
        instead("params.conv1.kernel", link_to("..")),
        "its link 'params.conv1.kernel' leads out of the folder",
    ),
    "a link to nothing": (instead("params.conv1.kernel", link_to("nothing")), "leads out of the folder, or to nothing"),
    "a pipe for a description": (instead("params.conv1.kernel/.zarray", os.mkfifo), "is no regular file"),
    "a pipe for values": (instead("params.conv1.kernel/0.0.0.0", os.mkfifo), "is no regular file"),
    "an endless device": (instead("params.conv1.kernel/0.0.0.0", link_to("/dev/zero")), "leads out of the folder"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("orbax") / "right"
    with ocp.PyTreeCheckpointer(use_ocdbt=False) as writer:
        writer.save(path, drawn(MODEL))
    return path


@pytest.fixture(scope="module")
def met(folder, tmp_path_factory):
    """Reads all folders in one process; returns what it says of each, its seconds, and its peak memory in MB."""
    root = tmp_path_factory.mktemp("hostile")
    for number, (change, _) in enumerate(FOLDERS.values()):
        shutil.copytree(folder, root / f"{number:02}")
        change(root / f"{number:02}")
    child = [sys.executable, "-c", CHILD, str(root)]
    done = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(FOLDERS, (found[name] for name in sorted(found)), strict=True))


@pytest.mark.parametrize("name", FOLDERS)
def test_one_line_soon_and_in_little_memory(met, name):
    said, seconds, peak = met[name]
    assert said is not None
    assert FOLDERS[name][1] in said
    assert "\n" not in said
    assert seconds < 5
    assert peak < 500


def test_the_folder_itself_is_right(folder, tmp_path):
    """A link to a folder, and links inside of it that stay there, are followed."""
    inside = shutil.copytree(folder, tmp_path / "inside")
    values = inside / "params.conv1.kernel" / "0.0.0.0"
    values.rename(inside / "values")
    values.symlink_to("../values")
    (tmp_path / "link").symlink_to(inside)
    for path in (folder, inside, tmp_path / "link"):
        loaded = load_weights(MODEL, path)
        for right, read in zip(jax.tree.leaves(dict(drawn(MODEL))), jax.tree.leaves(loaded), strict=True):
            np.testing.assert_array_equal(right, read)
