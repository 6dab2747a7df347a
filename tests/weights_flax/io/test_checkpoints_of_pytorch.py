"""Checkpoints that PyTorch wrote, as several projects write them: the logits are those that PyTorch computed."""

import jax
import numpy as np
import pytest
import references

from resnet_flax import ResNet
from weights_flax import load_model, load_weights
from weights_flax.__main__ import main

FOLDER = references.GOLDEN / "checkpoints"
MODEL = ResNet((1, 1), width=4, num_classes=3)
READ = {
    "model_best.pth.tar": {},
    "lightning.ckpt": {"ignore_unused": True},
    "averaged_model.pth": {},
    "timm.pth.tar": {},
    "compiled.pth": {},
    "odd.pth": {},
    "legacy.pth": {},
}


def error(variables, name):
    with np.load(FOLDER / "logits.npz") as stored:
        logits = jax.jit(MODEL.apply)(variables, stored["images"])
        return np.abs(logits - stored[name]).max() / np.abs(stored[name]).max()


@pytest.mark.parametrize("name", READ)
def test_logits_are_pytorchs(name):
    loaded = load_model(FOLDER / name, **READ[name])
    assert loaded.model == MODEL
    assert error(loaded.variables, "logits") < 1e-5
    assert error(load_weights(MODEL, FOLDER / name, **READ[name]), "logits") < 1e-5


def test_the_average_is_taken_when_asked(capsys):
    assert error(load_model(FOLDER / "timm.pth.tar", ema=True).variables, "averaged") < 1e-5
    assert error(load_model(FOLDER / "averaged_model.pth", ema=True).variables, "logits") < 1e-5
    assert main(["inspect", str(FOLDER / "timm.pth.tar"), "--ema"]) == 0
    assert "took the network under 'state_dict_ema/', not 'state_dict/'" in capsys.readouterr().out


def test_what_is_left_over_is_named():
    with pytest.raises(ValueError, match=r"beside it: criterion\.weight; ignore_unused=True"):
        load_model(FOLDER / "lightning.ckpt")
