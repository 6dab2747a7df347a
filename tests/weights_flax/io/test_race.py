"""Writers and readers of one file at the same time: each look finds one writer's file, whole."""

import shutil
import threading

import jax
import numpy as np
import pytest
import references
from drawn import check_same, drawn

from resnet_flax import resnet20
from weights_flax import load_weights, save_weights
from weights_flax.formats.open import open_weights

MODEL = resnet20(width=2)
ENDINGS = [".safetensors", ".npz", ".msgpack", ".pth"]
SAVES = 12


def filled(value):
    return jax.tree.map(lambda leaf: np.full_like(leaf, value), drawn(MODEL))


@pytest.mark.parametrize("ending", ENDINGS)
def test_two_writers_and_a_reader(ending, tmp_path):
    path, errors = tmp_path / f"w{ending}", []

    def write(value):
        try:
            for _ in range(SAVES):
                save_weights(MODEL, filled(value), path)
        except Exception as error:
            errors.append(error)

    save_weights(MODEL, filled(1), path)
    writers = [threading.Thread(target=write, args=(value,)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    looks = 0
    while looks < 3 or any(writer.is_alive() for writer in writers):
        values = {float(value) for leaf in jax.tree.leaves(load_weights(MODEL, path)) for value in np.unique(leaf)}
        assert values in ({1.0}, {2.0})
        looks += 1
    assert not errors
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [*ENDINGS, ".h5"])
def test_an_opened_file_stays_the_same_file(ending, tmp_path):
    """Values are read later than names; another file may have taken the name by then."""
    path, other = tmp_path / f"w{ending}", tmp_path / f"other{ending}"
    if ending == ".h5":
        h5py = pytest.importorskip("h5py")
        for value, name in ((1, path), (2, other)):
            with h5py.File(name, "w") as file:
                file["conv1_conv/conv1_conv/kernel:0"] = np.full(5000, value, np.float32)
    else:
        for value, name in ((1, path), (2, other)):
            save_weights(MODEL, filled(value), name)
    file = open_weights(path)
    other.replace(path)
    assert {float(value) for tensor in file.tensors.values() for value in np.unique(np.asarray(tensor))} == {1.0}


def test_an_opened_legacy_file_stays_the_same_file(tmp_path):
    golden = references.GOLDEN / "cifar10_resnet20_akamaster.th"
    path = shutil.copy(golden, tmp_path / "w.th")
    file = open_weights(path)
    (tmp_path / "zeros").write_bytes(bytes(golden.stat().st_size))
    (tmp_path / "zeros").replace(path)
    expected = {name: np.asarray(tensor) for name, tensor in open_weights(golden).tensors.items()}
    check_same({name: np.asarray(tensor) for name, tensor in file.tensors.items()}, expected)
