"""Sources of weights, and classifiers that are kept or drawn anew."""

import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from drawn import check_same, drawn

from densenet_flax import densenet_bc_40_12
from resnet_flax import plain20, resnet20, resnet50, vgg11
from weights_flax import load_model, load_weights, save_weights, to_torch

MODEL = resnet20(width=4)
NARROW = [resnet20(width=4), densenet_bc_40_12(growth_rate=4), vgg11(width=1)]


@pytest.mark.parametrize("model", NARROW, ids=lambda model: type(model).__name__)
def test_a_head_of_another_size_is_drawn_anew_when_asked(tmp_path, model):
    """The classifier is the one that `init` draws from the same seed; the rest is the file's."""
    path = save_weights(model, drawn(model), tmp_path / "w.safetensors")
    other = model.clone(num_classes=7)
    with pytest.raises(ValueError, match=f"have {model.num_classes} classes, the model has 7; new_head=True draws"):
        load_weights(other, path)
    variables = load_weights(other, path, new_head=True, seed=3)
    fresh = other.init(jax.random.key(3), jnp.zeros((1, 32, 32, 3)), train=False)["params"]
    head = {"fc", "classifier", "classifier_6"} & set(fresh)
    for name, value in variables["params"].items():
        if name in head:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), value, fresh[name])
        else:
            check_same(value, drawn(model)["params"][name])
    check_same(variables["batch_stats"], drawn(model)["batch_stats"])
    assert load_weights(other, path, new_head=True, seed=4)["params"].keys() == fresh.keys()


def test_a_head_that_fits_is_drawn_anew_too_when_asked(tmp_path):
    """Another classifier may have the same number of classes."""
    path = save_weights(MODEL, drawn(MODEL), tmp_path / "w.safetensors")
    variables = load_weights(MODEL, path, new_head=True)
    assert not np.array_equal(variables["params"]["fc"]["kernel"], drawn(MODEL)["params"]["fc"]["kernel"])
    assert not variables["params"]["fc"]["bias"].any()


def test_new_heads_differ_by_seed(tmp_path):
    path = save_weights(MODEL, drawn(MODEL), tmp_path / "w.safetensors")
    model = MODEL.clone(num_classes=3)
    first, second = (load_weights(model, path, new_head=True, seed=seed)["params"]["fc"]["kernel"] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_mappings_of_either_side():
    check_same(load_weights(MODEL, drawn(MODEL)), drawn(MODEL))
    check_same(load_weights(MODEL, to_torch(MODEL, drawn(MODEL))), drawn(MODEL))


def test_folders_of_runs_give_their_averaged_weights(tmp_path):
    averaged = jax.tree.map(lambda leaf: 2 * leaf, drawn(MODEL))
    save_weights(MODEL, drawn(MODEL), tmp_path / "model.safetensors")
    check_same(load_weights(MODEL, tmp_path), drawn(MODEL))
    save_weights(MODEL, averaged, tmp_path / "model_ema.safetensors")
    check_same(load_weights(MODEL, tmp_path), averaged)


@pytest.mark.parametrize("ema", [False, True])
def test_checkpoints_of_orbax(tmp_path, ema):
    """Variables are read from training states of Flax's example and of our runs; averaged ones come first."""
    variables = drawn(MODEL)
    averaged = jax.tree.map(lambda leaf: 2 * leaf, variables)
    state = {"step": np.int32(7), "opt_state": [{"trace": variables["params"]}], **variables}
    folder = tmp_path / "checkpoints" / "7" / "state"
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder, state | ({"ema": averaged} if ema else {}))
        writer.wait_until_finished()
    for source in (folder, tmp_path):
        check_same(load_weights(MODEL, source), averaged if ema else variables)


def test_a_damaged_checkpoint_of_orbax(tmp_path, monkeypatch):
    """One line reports the error, and reads that continue after the first failure print nothing."""
    unheard = []
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)
    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "state", drawn(MODEL))
        writer.wait_until_finished()
    parts = list((tmp_path / "state").rglob("d/*"))  # files of the arrays' values; their names stay undamaged
    assert parts
    for path in parts:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for _ in range(8):  # other reads continue only by chance
        with pytest.raises(ValueError, match="cannot be read: ") as error:
            load_weights(MODEL, tmp_path / "state")
        assert "\n" not in str(error.value)
    time.sleep(0.2)  # until those reads end
    assert not unheard


def test_files_of_the_hub(tmp_path, monkeypatch):
    """The hub's own library fetches files by owner, name and file, and caches them."""
    save_weights(MODEL, drawn(MODEL), tmp_path / "model.safetensors")
    asked = []

    def hf_hub_download(repository, file):
        asked.append((repository, file))
        if "absent" in file:
            raise OSError("404: no such\n file")
        return str(tmp_path / "model.safetensors")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    check_same(load_weights(MODEL, "hf://owner/name"), drawn(MODEL))
    check_same(load_weights(MODEL, "hf://owner/name/folder/file.safetensors"), drawn(MODEL))
    assert asked == [("owner/name", "model.safetensors"), ("owner/name", "folder/file.safetensors")]
    with pytest.raises(ValueError, match="hf://owner/name/absent cannot be had: 404: no such file"):
        load_weights(MODEL, "hf://owner/name/absent")
    with pytest.raises(ValueError, match="an address of the hub is hf://OWNER/NAME or hf:"):
        load_weights(MODEL, "hf://owner")


def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"hf://a/b needs huggingface_hub: pip install 'resnet-densenet-flax\[hub\]'"):
        load_weights(MODEL, "hf://a/b")


def test_an_architecture_can_be_named(tmp_path):
    """Names and shapes of a plain network are those of a ResNet with shortcut A."""
    path = save_weights(plain20(), drawn(plain20()), tmp_path / "w.pt")
    assert load_model(path).model == resnet20()
    assert load_model(path, "plain20").model == plain20()
    assert load_model(path, "resnet20", dtype=jnp.bfloat16).model == resnet20(dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="are not those of resnet32"):
        load_model(path, "resnet32")
    with pytest.raises(ValueError, match="unknown arch 'resnet21'; did you mean"):
        load_model(path, "resnet21")
    model = resnet20(num_classes=7)
    path = save_weights(model, drawn(model), tmp_path / "seven.pt")
    with pytest.raises(ValueError, match="are not those of resnet32: state dict does not fit the model; missing: "):
        load_model(path, "resnet32")


SILENT = {
    "a plain network's": (
        plain20(width=2),
        resnet20(width=2),
        "of plain20, .* shortcut=None; that of the model is 'A'",
    ),
    "a residual network's": (
        resnet20(width=2),
        plain20(width=2),
        "of resnet20, .* shortcut='A'; that of the model is None",
    ),
    "of another padding": (
        resnet20(width=2, padding="same"),
        resnet20(width=2),
        "of resnet20, .* padding='same'; that of the model is 'torch'",
    ),
    "of strides elsewhere": (
        resnet50(width=2, bottleneck_stride="v1"),
        resnet50(width=2),
        "of resnet50, .* bottleneck_stride='v1'; that of the model is 'v1.5'",
    ),
}


@pytest.mark.parametrize("name", SILENT)
def test_weights_of_our_own_files_are_not_taken_for_another_network_s(name, tmp_path):
    """Nothing but the card tells these networks apart: names and shapes are the same."""
    saved, other, message = SILENT[name]
    variables = drawn(saved)
    save_weights(saved, variables, tmp_path / "w.safetensors")
    check_same(load_weights(saved, tmp_path / "w.safetensors"), variables)
    with pytest.raises(ValueError, match=f"are those {message}"):
        load_weights(other, tmp_path / "w.safetensors")
