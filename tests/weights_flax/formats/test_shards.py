"""Networks in several files with an index, and what an index may not ask for."""

import json
import sys
from types import SimpleNamespace

import pytest
from drawn import check_same, drawn
from safetensors.numpy import save_file
from torch_files import save, tensors

from resnet_flax import resnet20
from weights_flax import load_model, load_weights, to_torch
from weights_flax.__main__ import main

MODEL = resnet20(width=2, num_classes=3)
RIGHT = drawn(MODEL)
STATE = to_torch(MODEL, RIGHT)
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def shards(folder, names=PARTS, index="model.safetensors.index.json", **changes):
    places = {name: names[number % 2] for number, name in enumerate(STATE)}
    for part in names:
        own = {name: STATE[name] for name, place in places.items() if place == part}
        save_file(own, folder / part) if part.endswith("safetensors") else save(tensors(own), folder / part)
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places | changes}))
    return folder


def test_an_index_or_its_folder_is_read(tmp_path, capsys):
    folder = shards(tmp_path)
    for source in (folder, folder / "model.safetensors.index.json"):
        check_same(load_weights(MODEL, source), RIGHT)
        assert load_model(source).model == MODEL
    assert main(["inspect", str(folder)]) == 0
    assert "safetensors in parts, 97 tensors" in capsys.readouterr().out


def test_parts_of_pytorch(tmp_path):
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    check_same(load_weights(MODEL, shards(tmp_path, names, "pytorch_model.bin.index.json")), RIGHT)


def test_a_repository_of_the_hub_in_parts(tmp_path, monkeypatch):
    shards(tmp_path)
    asked = []

    class EntryNotFoundError(Exception):
        pass

    def hf_hub_download(repository, file):
        asked.append(file)
        if not (tmp_path / file).exists():
            raise EntryNotFoundError(f"404: {file}")
        return str(tmp_path / file)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    check_same(load_weights(MODEL, "hf://owner/name"), RIGHT)
    assert asked[:4] == ["model.safetensors", "model.safetensors.index.json", *PARTS]
    with pytest.raises(ValueError, match="hf://owner/name/absent cannot be had: 404: absent"):
        load_weights(MODEL, "hf://owner/name/absent")


WRONG = {
    "a part above": ({"fc.bias": "../other.safetensors"}, "its part '../other.safetensors' is not a file beside it"),
    "a part at the root": ({"fc.bias": "/etc/passwd"}, "its part '/etc/passwd' is not a file beside it"),
    "itself": ({"fc.bias": "model.safetensors.index.json"}, "is not a file beside it"),
    "the folder": ({"fc.bias": "."}, "its part '.' is not a file beside it"),
    "a part that is not there": ({"fc.bias": "absent.safetensors"}, "absent.safetensors': there is no such file"),
    "a tensor that is not there": ({"fc.extra": PARTS[0]}, f"its part '{PARTS[0]}' lacks 'fc.extra'"),
    "a number for a file": ({"fc.bias": 5}, "it is an index without a weight_map of names to files"),
    "hundreds of parts": ({f"a{i}": f"{i}.safetensors" for i in range(300)}, "parts, more than 256"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_index_that_leads_elsewhere(name, tmp_path):
    changes, said = WRONG[name]
    with pytest.raises(ValueError) as error:
        load_weights(MODEL, shards(tmp_path, **changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 10**5])
def test_an_index_that_is_damaged(text, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"weights '.*' cannot be read: ") as error:
        load_weights(MODEL, tmp_path)
    assert "\n" not in str(error.value)
