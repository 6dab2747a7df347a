"""A family of one's own is one package and nothing else: here it is these forty lines."""

import json
from collections.abc import Sequence
from typing import Unpack

import jax
import numpy as np
import pytest
from flax import linen as nn

from layers_flax import Linear, Network, NetworkOptions, architecture, conv_norm, count_parameters
from layers_flax.model.architecture import ARCHS, FAMILIES
from training_flax import TrainConfig, evaluate, fit, open_dataset, predict, restore
from weights_flax import (
    class_activation_map,
    export,
    features,
    fold_batch_norm,
    load_model,
    load_weights,
    save_weights,
    summary,
)


class TinyOptions(NetworkOptions, total=False):
    """Keywords of the constructor."""

    width: int


class TinyNet(Network):
    """Stages of one strided 3×3 convolution, BatchNorm and ReLU each."""

    stage_sizes: Sequence[int] = (1, 1)
    num_classes: int = 10
    width: int = 8

    first_conv, torch_head = "entry", "logits"

    def setup(self):
        conv, norm = self.conv_and_norm()
        self.entry, self.entry_norm = conv_norm(conv, norm, self.folded, self.width, 3)
        pairs = [conv_norm(conv, norm, self.folded, self.width * 2**i, 3, 2) for i in (1, 2)]
        self.convs, self.norms = [conv for conv, _ in pairs], [norm for _, norm in pairs]
        self.logits = Linear(self.num_classes, self.param_dtype)

    @nn.nowrap
    def torch_options(self, shapes):
        return {"width": shapes["entry.weight"][0]} if "entry.weight" in shapes else None

    def stem(self, images, train=False):
        return nn.relu(self.entry_norm(self.entry(images), train))

    def stage(self, x, index, train=False):
        return nn.relu(self.norms[index](self.convs[index](x), train))

    def classify(self, x, train=False):
        return self.logits(x)


@pytest.fixture(scope="module", autouse=True)
def tiny_net():
    before = dict(ARCHS), dict(FAMILIES)

    @architecture("tiny", width=4)
    def tiny_net(**options: Unpack[TinyOptions]) -> TinyNet:
        """A network of three convolutions."""
        return TinyNet(**options)

    yield tiny_net
    for table, old in zip((ARCHS, FAMILIES), before, strict=True):
        table.clear()
        table.update(old)


@pytest.fixture(scope="module")
def run(tiny_net, tmp_path_factory):
    """Twelve steps on digits."""
    out = tmp_path_factory.mktemp("tiny") / "run"
    return out, fit(TrainConfig("tiny_net", steps=12, batch_size=32, out=str(out), seed=3))


IMAGES = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))


def variables_of(model):
    return model.init(jax.random.key(1), IMAGES, train=False)


@pytest.mark.slow
def test_it_trains_and_its_run_is_used(run):
    out, result = run
    assert result.summary["steps"] == 12
    assert json.loads((out / "config.json").read_text())["arch"] == "tiny_net"
    model, variables = restore(out)
    assert isinstance(model, TinyNet)
    assert model.width == 4
    measured = evaluate(model, variables, open_dataset("digits"))
    assert result.summary["test_accuracy"] == measured.accuracy
    predictions = predict(model, variables, np.zeros((2, 8, 8, 1), np.uint8), mean=[0.5], std=[0.5])
    assert predictions.probabilities.shape == (2, 5)


@pytest.mark.parametrize("ending", ["safetensors", "npz", "msgpack", "pth"])
def test_it_is_saved_and_recognised(tiny_net, tmp_path, ending):
    model = tiny_net(num_classes=5, width=6)
    variables = variables_of(model)
    path = tmp_path / f"weights.{ending}"
    save_weights(model, variables, path)
    for loaded in (load_weights(model, path), load_model(path).variables):
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert load_model(path).model == model


def test_it_is_folded_and_exported(tiny_net, tmp_path):
    model = tiny_net()
    variables = variables_of(model)
    expected = model.apply(variables, IMAGES)
    folded, values = fold_batch_norm(model, variables)
    assert not values["batch_stats"]
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(folded.apply(values, IMAGES), expected, atol=tolerance)
    path = tmp_path / "tiny.stablehlo"
    export(model, variables, path, image_shape=(32, 32, 3))
    exported = jax.export.deserialize(path.read_bytes())
    np.testing.assert_allclose(exported.call(IMAGES), expected, atol=tolerance)


def test_it_is_summarised_and_looked_into(tiny_net):
    model = tiny_net()
    variables = variables_of(model)
    text = str(summary(model, (32, 32, 3)))
    assert f"{count_parameters(model, (32, 32, 3)):,}" in text
    assert list(features(model, variables, IMAGES)) == ["stem", "stage0", "stage1", "pooled", "logits"]
    assert class_activation_map(model, variables, IMAGES).shape == (2, 8, 8)
