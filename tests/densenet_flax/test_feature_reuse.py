"""Feature reuse: the weights of each source, told apart by numbers that name source and target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from densenet_flax import densenet_40_12, densenet_bc_40_12, feature_reuse
from resnet_flax import resnet20, vgg11

MODELS = {
    "bottleneck": densenet_bc_40_12(block_sizes=(2, 3), growth_rate=4, num_classes=5, compression=0.7),
    "no bottleneck": densenet_40_12(block_sizes=(3, 1, 2), growth_rate=5, num_classes=3, stem_width=7),
}


def zeros(model):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), images)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def write(kernel, inputs, growth, target, signs):
    """Weights of size 100 target + source, of both signs, and noise of mean zero in the sizes within a source."""
    for source in range(target):
        channels = slice(0, inputs) if source == 0 else slice(inputs + (source - 1) * growth, inputs + source * growth)
        part = kernel[..., channels, :]
        noise = signs.uniform(-0.5, 0.5, part.shape)
        part[...] = signs.choice([-1.0, 1.0], part.shape) * (100 * target + source + noise - noise.mean())


@pytest.mark.parametrize("kind", MODELS)
def test_each_entry_is_the_mean_absolute_weight_from_its_source_to_its_target(kind):
    model, signs = MODELS[kind], np.random.default_rng(0)
    variables = zeros(model)
    params = variables["params"]
    inputs = params["conv0"]["kernel"].shape[-1]
    for block, size in enumerate(model.block_sizes):
        for layer in range(size):
            kernel = params[f"denseblock{block + 1}"][f"denselayer{layer + 1}"]["conv1"]["kernel"]
            write(kernel, inputs, model.growth_rate, layer + 1, signs)
        last = block == len(model.block_sizes) - 1
        behind = params["classifier"] if last else params[f"transition{block + 1}"]["conv"]
        write(behind["kernel"], inputs, model.growth_rate, size + 1, signs)
        inputs = behind["kernel"].shape[-1]

    for weights, size in zip(feature_reuse(model, variables), model.block_sizes, strict=True):
        targets, sources = np.arange(1, size + 2)[None], np.arange(size + 1)[:, None]
        expected = np.where(sources < targets, 100.0 * targets + sources, np.nan)
        np.testing.assert_allclose(weights, expected, rtol=1e-5)


@pytest.mark.parametrize("model", [resnet20(), vgg11()], ids=lambda model: type(model).__name__)
def test_a_network_that_concatenates_nothing_is_refused_by_its_class(model):
    with pytest.raises(ValueError, match=rf"reused in a DenseNet; {type(model).__name__}"):
        feature_reuse(model, {"params": {}})


def test_variables_of_another_network_are_refused():
    model = MODELS["bottleneck"]
    with pytest.raises(ValueError, match="they have no denseblock2/denselayer3/conv1"):
        feature_reuse(model, zeros(model.clone(block_sizes=(2, 2))))
    with pytest.raises(ValueError, match=r"denseblock1/denselayer1/conv1 has shape \(1, 1, 8, 16\)"):
        feature_reuse(
            model, {"params": zeros(model)["params"] | {"transition1": {"conv": {"kernel": np.ones((1, 9, 3))}}}}
        )
