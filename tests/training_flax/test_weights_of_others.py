"""Training and prediction from others' checkpoints: the same rule for which part is the network as everywhere."""

import jax
import numpy as np
import pytest
from drawn import drawn
from PIL import Image
from torch_files import Tensor, save, tensors

from resnet_flax import resnet20
from training_flax import TrainConfig, plan
from training_flax.inference.command import main as predict
from training_flax.learn.starting_weights import starting_weights
from training_flax.train_command import main as train
from weights_flax import to_torch

NINE_BLOCKS = True
MODEL = resnet20(width=2, num_classes=3)
RIGHT = drawn(MODEL)
AVERAGE = jax.tree.map(lambda leaf: np.float32(2) * leaf, RIGHT)
AVERAGE["params"]["fc"] = jax.tree.map(np.negative, RIGHT["params"]["fc"])  # so that it sees another class
STATE, EMA = (tensors(to_torch(MODEL, variables)) for variables in (RIGHT, AVERAGE))
RUN = ["--arch", "resnet20", "--width", "2", "--data", "fake:8x8x3:3:32", "--steps", "2", "--batch-size", "16"]


@pytest.fixture
def checkpoint(tmp_path):
    state = {f"model.{name}": value for name, value in STATE.items()} | {
        "criterion.weight": Tensor(np.ones(3, np.float32))
    }
    return str(save({"state_dict": state, "state_dict_ema": EMA}, tmp_path / "best.ckpt"))


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_prediction_takes_either(checkpoint, image, capsys):
    assert predict(["--weights", checkpoint, image]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "beside it: criterion.weight; ignore_unused=True (--ignore-unused)" in line
    tables = []
    for options in (["--ignore-unused"], ["--ema"], ["--which", "averaged"]):
        assert predict(["--weights", checkpoint, *options, "--json", image]) == 0
        out, err = capsys.readouterr()
        tables.append(out)
        assert "predict: weights " in err
    assert tables[0] != tables[1] == tables[2]
    assert predict(["--weights", checkpoint, "--ema", "--which", "last", image]) == 2
    assert "ask for different weights" in capsys.readouterr().err


def test_prediction_refuses_look_alikes(tmp_path, image, capsys):
    path = save(STATE, tmp_path / "resnetaa50.pth")
    assert predict(["--weights", str(path), image]) == 2
    assert "its name says 'resnetaa50.pth': average pools where it strides" in capsys.readouterr().err


def test_training_starts_from_either(checkpoint, tmp_path):
    options = dict(arch="resnet20", width=2, data="fake:8x8x3:3:32", steps=2, batch_size=16, ignore_unused=True)
    for which, right in ((None, RIGHT), ("averaged", AVERAGE), ("last", RIGHT)):
        job = plan(TrainConfig(**options, weights=checkpoint, which=which, out=tmp_path / "run"))
        kernel = starting_weights(job.config, job.eval_model)["params"]["conv1"]["kernel"]
        np.testing.assert_array_equal(kernel, right["params"]["conv1"]["kernel"])


def test_training_names_what_is_left_over(checkpoint, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert train([*RUN, *out, "--weights", checkpoint]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "beside it: criterion.weight; ignore_unused=True (--ignore-unused)" in err
    assert not (tmp_path / "run").exists()
    assert train([*RUN, *out, "--ignore-unused"]) == 2
    assert "ignore_unused is for weights to start from; none are given" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["fc.1", "classifier.1", "probe", None])
def test_a_new_head_replaces_one_of_any_name(head, tmp_path):
    """As with --new-head, or by the number of classes alone."""
    state = {name: value for name, value in STATE.items() if not name.startswith("fc.")}
    if head:
        state |= {f"{head}.{leaf}": STATE[f"fc.{leaf}"] for leaf in ("weight", "bias")}
    path = str(save({"model": state}, tmp_path / "best.pth"))
    options = dict(arch="resnet20", width=2, data="fake:8x8x3:4:32", steps=2, batch_size=16, weights=path)
    for chosen in ({"new_head": True}, {"num_classes": 4}):
        job = plan(TrainConfig(**options, **chosen, out=tmp_path / "run"))
        variables = starting_weights(job.config, job.eval_model)
        assert variables["params"]["fc"]["kernel"].shape == (8, 4)
        np.testing.assert_array_equal(variables["params"]["conv1"]["kernel"], RIGHT["params"]["conv1"]["kernel"])
    with pytest.raises(ValueError, match="--num-classes 4 draws the classifier anew"):
        plan(TrainConfig(**options, out=tmp_path / "run"))
