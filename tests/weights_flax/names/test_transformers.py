"""Names of Hugging Face transformers' ResNets, and of a ResNet's children in a sequence."""

import re

import pytest
from drawn import check_same, drawn
from safetensors.numpy import save_file
from torch_files import save, tensors

from resnet_flax import resnet18, resnet50
from weights_flax import load_model, load_weights, to_torch
from weights_flax.__main__ import main
from weights_flax.names.candidates import candidates

BASIC, BOTTLENECKS = resnet18(width=4, num_classes=5), resnet50(width=4, num_classes=5)


def in_transformers(name, head="classifier.1."):
    """A name as `ResNetForImageClassification` has it."""
    if name.startswith("fc."):
        return head + name[3:]
    name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
    name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
    name = re.sub(r"^layer(\d+)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.", name)
    name = name.replace("downsample.0.", "shortcut.convolution.").replace("downsample.1.", "shortcut.normalization.")
    name = re.sub(r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution.", name)
    return "resnet." + re.sub(r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization.", name)


@pytest.mark.parametrize("model", [BASIC, BOTTLENECKS], ids=["resnet18", "resnet50"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_transformers_resnets(model, prefix, tmp_path, capsys):
    state = {prefix + in_transformers(name): value for name, value in to_torch(model, drawn(model)).items()}
    assert any(name.endswith("encoder.stages.3.layers.0.shortcut.convolution.weight") for name in state)
    assert any(name.endswith("encoder.stages.0.layers.1.layer.1.normalization.running_var") for name in state)
    save_file(state, tmp_path / "model.safetensors")
    (note,) = load_model(tmp_path / "model.safetensors").notes
    assert "no config.json beside them was read" in note
    for option in ("hidden_act", "downsample_in_bottleneck", "downsample_in_first_stage"):
        assert option in note
    assert main(["inspect", str(tmp_path / "model.safetensors")]) == 0
    assert note in capsys.readouterr().out
    (tmp_path / "config.json").write_text('{"model_type": "resnet", "hidden_act": "relu"}')
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.model == model
    assert loaded.notes == ()
    check_same(loaded.variables, drawn(model))
    check_same(load_weights(model, tmp_path / "model.safetensors"), drawn(model))


def test_its_backbone_alone_gets_a_new_head(tmp_path):
    """`ResNetModel` has neither the prefix nor the classifier."""
    state = {
        in_transformers(name).removeprefix("resnet."): value
        for name, value in to_torch(BASIC, drawn(BASIC)).items()
        if not name.startswith("fc.")
    }
    save_file(state, tmp_path / "model.safetensors")
    three = BASIC.clone(num_classes=3)
    check_same(
        load_weights(three, tmp_path / "model.safetensors", new_head=True)["batch_stats"], drawn(BASIC)["batch_stats"]
    )
    with pytest.raises(ValueError, match="fit resnet18 but for the classifier"):
        load_model(tmp_path / "model.safetensors")


CHILDREN = {"conv1": "0", "bn1": "1", **{f"layer{i}": str(i + 3) for i in range(1, 5)}, "fc": "9"}


@pytest.mark.parametrize("prefix", ["", "features.", "module.encoder.", "extractor."])
def test_children_in_a_sequence(prefix, tmp_path):
    """`nn.Sequential(*resnet.children())`, whole or without its classifier."""
    state = {}
    for name, value in to_torch(BOTTLENECKS, drawn(BOTTLENECKS)).items():
        child, _, rest = name.partition(".")
        state[f"{prefix}{CHILDREN[child]}.{rest}"] = value
    path = save(tensors(state), tmp_path / "best.pth")
    check_same(load_model(path).variables, drawn(BOTTLENECKS))
    (candidate,) = candidates(dict(_opened(path).items()))
    assert candidate.prefix == prefix.replace("module.", "")
    headless = {name: value for name, value in state.items() if not name.startswith(f"{prefix}9.")}
    path = save(tensors(headless), tmp_path / "headless.pth")
    loaded = load_weights(BOTTLENECKS, path, new_head=True)
    check_same(loaded["params"]["layer4_2"], drawn(BOTTLENECKS)["params"]["layer4_2"])


def _opened(path):
    from weights_flax.formats.open import open_weights

    return open_weights(path).tensors
