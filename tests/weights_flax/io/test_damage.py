"""Damaged files of weights: each gives an error of one line, or the numbers that were written."""

import json

import jax
import numpy as np
import pytest
from drawn import check_same, drawn
from flax import serialization
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from layers_flax import to_torch
from resnet_flax import ResNet
from resnet_flax.blocks import BasicBlock
from weights_flax import load_weights, read_card, save_weights

MODEL = ResNet((1,), BasicBlock, width=4, num_classes=3, stem_type="cifar")
ABOUT = dict(class_names=["a", "b", "c"], mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 3.0], run={"step": 7, "which": "last"})
ENDINGS = [".safetensors", ".npz", ".msgpack", ".pth"]
WITH_CARD = ENDINGS[:3]
DAMAGES = 300


def flip(data, rng):
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))


def replace(data, rng):
    data[rng.integers(len(data))] = rng.integers(256)


def zero(data, rng):
    size = int(rng.choice([1, 4, 64, 512]))
    start = rng.integers(len(data))
    data[start : start + size] = bytes(len(data[start : start + size]))


def swap(data, rng):
    size = int(rng.choice([1, 4, 64, 512]))
    first, second = (int(place) for place in rng.integers(len(data) - size, size=2))
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )


def cut(data, rng):
    del data[rng.integers(len(data)) :]


def drop(data, rng):
    start = rng.integers(len(data))
    del data[start : start + int(rng.integers(1, 600))]


def repeat(data, rng):
    start = rng.integers(len(data))
    data[start:start] = data[start : start + int(rng.integers(1, 600))]


KINDS = [flip, replace, zero, swap, cut, drop, repeat]


@pytest.fixture(scope="module", params=ENDINGS)
def written(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / f"w{request.param}"
    save_weights(MODEL, drawn(MODEL), path, **ABOUT)
    return path


def check_right_or_refused(path, card):
    """Reads the file by both doors; returns True if it was refused."""
    try:
        variables, found = load_weights(MODEL, path), read_card(path)
    except ValueError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return True
    check_same(variables, drawn(MODEL))
    assert found == card
    return False


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile says so before it refuses
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_damage_anywhere_is_noticed_or_changes_no_number(written, kind, tmp_path):
    whole, card = written.read_bytes(), read_card(written)
    refused = 0
    for seed in range(DAMAGES // len(KINDS) + 1):
        data = bytearray(whole)
        kind(data, np.random.default_rng([seed, KINDS.index(kind)]))
        path = tmp_path / f"damaged{written.suffix}"
        path.write_bytes(data)
        refused += check_right_or_refused(path, card)
    assert refused > DAMAGES // len(KINDS) // 2


@pytest.mark.parametrize("kind", [flip, swap], ids=lambda kind: kind.__name__)
def test_damage_around_the_card_is_noticed(written, kind, tmp_path):
    """Names and card are a small part of a large file; here all damages are in them."""
    whole, card = written.read_bytes(), read_card(written)
    start, end = (0, 6000) if written.suffix in (".safetensors", ".msgpack") else (len(whole) - 4000, len(whole))
    for seed in range(DAMAGES):
        part = bytearray(whole[start:end])
        kind(part, np.random.default_rng([seed, 99]))
        path = tmp_path / f"damaged{written.suffix}"
        path.write_bytes(whole[:start] + part + whole[end:])
        check_right_or_refused(path, card)


def values_of(path):
    """Returns the place of some value's bytes in a file."""
    kernel = drawn(MODEL)["params"]["layer1_0"]["conv1"]["kernel"]
    kernel = kernel.transpose(3, 2, 0, 1) if path.suffix in (".safetensors", ".pth") else kernel
    return path.read_bytes().index(np.ascontiguousarray(kernel).tobytes())


def test_zeros_in_the_values_are_noticed(written, tmp_path):
    data, place = bytearray(written.read_bytes()), values_of(written)
    data[place : place + 64] = bytes(64)
    path = tmp_path / written.name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights '.*' cannot be read: ") as error:
        load_weights(MODEL, path)
    assert "\n" not in str(error.value)


CHANGES = {
    "another mean": lambda text: text.replace("0.1", "0.7"),
    "another class": lambda text: text.replace('"b"', '"d"'),
    "no JSON": lambda text: text[:-1],
    "no check sum of the card": lambda text: text[: text.rindex(", ")] + "}",
    "no check sums": lambda text: text.replace('"check_sums"', '"check_suns"'),
    "an entry twice": lambda text: text.replace('"num_classes": 3', '"num_classes": 3, "num_classes": 4'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_card_that_was_not_written_is_refused(change, tmp_path):
    save_weights(MODEL, drawn(MODEL), tmp_path / "w.safetensors", **ABOUT)
    with safe_open(tmp_path / "w.safetensors", "numpy") as file:
        text = CHANGES[change](file.metadata()["model"])
    save_file(load_file(tmp_path / "w.safetensors"), tmp_path / "w.safetensors", {"model": text})
    with pytest.raises(ValueError, match=r"weights '.*w.safetensors' cannot be read: its card is ") as error:
        read_card(tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["modem", "card"])
def test_a_card_under_another_key_is_missed(key, tmp_path):
    save_weights(MODEL, drawn(MODEL), tmp_path / "w.safetensors", **ABOUT)
    with safe_open(tmp_path / "w.safetensors", "numpy") as file:
        text = file.metadata()["model"]
    save_file(load_file(tmp_path / "w.safetensors"), tmp_path / "w.safetensors", {key: text})
    with pytest.raises(ValueError, match="its card is damaged"):
        load_weights(MODEL, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "card",
    [None, {"model": "resnet50"}, {"format": "pt"}, {"model": json.dumps({"arch": "resnet20", "num_classes": 3})}],
    ids=["none", "a name", "PyTorch's", "an older one of ours"],
)
def test_files_without_check_sums_are_read_as_they_are(card, tmp_path):
    save_file(to_torch(MODEL, drawn(MODEL)), tmp_path / "w.safetensors", card)
    check_same(load_weights(MODEL, tmp_path / "w.safetensors"), drawn(MODEL))
    assert read_card(tmp_path / "w.safetensors").keys() <= {"arch", "num_classes"}


@pytest.mark.parametrize("written", WITH_CARD, indirect=True)
def test_callers_see_no_check_sums(written):
    assert not [name for name in read_card(written) if "check" in name]
    assert read_card(written)["run"] == {"step": 7, "which": "last"}


def test_flax_reads_the_msgpack_file_without_its_card(tmp_path):
    variables = drawn(MODEL)
    data = save_weights(MODEL, variables, tmp_path / "w.msgpack", **ABOUT).read_bytes()
    restored = serialization.msgpack_restore(data)
    check_same(restored, variables)
    check_same(serialization.from_bytes(variables, data), variables)
    images = np.zeros((2, 8, 8, 3), np.float32)
    np.testing.assert_array_equal(MODEL.apply(restored, images), MODEL.apply(jax.device_get(variables), images))


def test_an_entry_of_a_compressed_npz_is_checked_to_its_end(tmp_path):
    """The check sum of a zip's entry is compared only when all of it is read."""
    arrays = {
        "/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(drawn(MODEL))
    }
    np.savez_compressed(tmp_path / "w.npz", **arrays)
    data = bytearray((tmp_path / "w.npz").read_bytes())
    place = data.rindex(b"PK\x01\x02") + 16  # the check sum of the last entry
    data[place] ^= 1
    (tmp_path / "w.npz").write_bytes(data)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        load_weights(MODEL, tmp_path / "w.npz")
