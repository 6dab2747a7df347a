"""The four blocks: derivatives of every kind, shortcuts, strides and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close, derivatives, random_variables

from resnet_flax import (
    BasicBlock,
    BottleneckBlock,
    PreActBasicBlock,
    PreActBottleneckBlock,
    resnet18,
    resnet20,
    resnet20_v2,
    vgg11_bn,
)

BLOCKS = [BasicBlock, BottleneckBlock, PreActBasicBlock, PreActBottleneckBlock]
KINDS = [  # options, channels in
    (dict(features=4, stride=2, shortcut="B"), 4),
    (dict(features=4, stride=1, shortcut="C"), 4),
    (dict(features=8, stride=2, shortcut="A"), 4),
    (dict(features=4, stride=2, shortcut=None), 4),
]


def draw(channels, size=(6, 5)):
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, *size, channels)))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("options", "channels"), KINDS)
@pytest.mark.parametrize("block", BLOCKS)
def test_derivatives_equal_those_with_stock_convolutions(x64, block, options, channels, train, stock_convolution):
    if not train and options["shortcut"] != "B":
        options, channels = dict(features=4), 4 * block.expansion  # one identity block is enough
    module, x = block(**options), draw(channels)
    variables = random_variables(module, x)

    def run(params, x):
        return module.apply({**variables, "params": params}, x, train)

    ours = derivatives(run, (variables["params"], x))
    stock_convolution()
    assert_close(ours, derivatives(run, (variables["params"], x)), 1e-12)


@pytest.mark.parametrize(
    ("model", "method", "channels"),
    [
        (resnet18(width=4, num_classes=3), "stem", 3),
        (resnet20(width=4), "stem", 3),
        (vgg11_bn(width=2), "stage", 3),
        (resnet20_v2(width=4), "head", 16),
    ],
)
def test_derivatives_of_stems_and_heads(x64, model, method, channels, stock_convolution):
    x = draw(channels, (9, 8))
    variables = random_variables(model, draw(3, (32, 32)))
    arguments = (0,) if method == "stage" else ()

    def run(params, x):
        return model.apply({**variables, "params": params}, x, *arguments, train=True, method=method)

    ours = derivatives(run, (variables["params"], x))
    stock_convolution()
    theirs = derivatives(run, (variables["params"], x))
    if method == "stage":
        # The BatchNorm behind takes away what a bias adds: its derivatives are zero, and rounding is all there is.
        for found in (ours, theirs):
            for kind in ("grad", "hvp", "vmap of grad"):
                layer = found[kind][0]["features_0"]
                assert np.abs(layer["bias"]).max() <= 1e-12 * np.abs(layer["kernel"]).max()
                layer["bias"] = jnp.zeros_like(layer["bias"])
    assert_close(ours, theirs, 1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_shortcut_a_is_the_input_padded_with_zero_channels(x64, block):
    x = draw(4)
    features = 8 // block.expansion
    module = block(features=features, stride=2, shortcut="A")
    variables = random_variables(module, x)
    assert not [name for name in variables["params"] if "downsample" in name]
    bound = module.bind(variables)
    source = nn_relu(bound.bn1(x)) if block.pre_activation else x
    skip, _ = bound.branches(x)
    assert_close(skip, np.pad(np.asarray(source)[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2))), 1e-15)


def nn_relu(x):
    return jnp.maximum(x, 0)


@pytest.mark.parametrize("block", BLOCKS)
def test_where_shortcuts_project(block):
    x = draw(8)
    same, wider = dict(features=8 // block.expansion), dict(features=16 // block.expansion, stride=2)
    for shortcut, options, projects in [("B", same, False), ("B", wider, True), ("C", same, True), ("C", wider, True)]:
        params = block(shortcut=shortcut, **options).init(jax.random.key(0), x)["params"]
        assert ("downsample_0" in params) == projects, (shortcut, options)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_plain_block_is_its_residual_alone(x64, block):
    x = draw(8)
    module = block(features=8 // block.expansion, shortcut=None)
    variables = random_variables(module, x)
    skip, residual = module.bind(variables).branches(x, True)
    assert np.all(np.asarray(skip) == 0)
    y = module.apply(variables, x, True)
    assert_close(y, residual if block.pre_activation else nn_relu(residual), 0)


@pytest.mark.parametrize("block", BLOCKS)
def test_zero_init_starts_a_block_as_its_shortcut_and_lets_it_learn(block):
    x = draw(8).astype(jnp.float32)
    module = block(features=8 // block.expansion, zero_init=True)
    variables = module.init(jax.random.key(0), x)
    y = module.apply(variables, x, True)
    np.testing.assert_array_equal(y, x if block.pre_activation else nn_relu(x))

    def loss(params):
        return (module.apply({**variables, "params": params}, x, True) ** 2).sum()

    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(jax.grad(loss)(variables["params"])))


@pytest.mark.parametrize("block", [BottleneckBlock, PreActBottleneckBlock])
def test_the_stride_sits_on_the_second_convolution_or_on_the_first(block):
    """Features that the first convolution makes tell where the image is halved."""
    x = draw(8, (8, 8))
    for where, size in (("v1.5", 8), ("v1", 4)):
        module = block(features=2, stride=2, bottleneck_stride=where)
        _, state = module.apply(module.init(jax.random.key(0), x), x, capture_intermediates=True, mutable=True)
        assert state["intermediates"]["conv1"]["__call__"][0].shape[1] == size
        assert state["intermediates"]["conv2"]["__call__"][0].shape[1] == 4


def test_a_shortcut_cannot_drop_channels():
    with pytest.raises(ValueError, match="shortcut 'A' cannot take 8 channels down to 4; use 'B'"):
        BasicBlock(features=4, shortcut="A").init(jax.random.key(0), draw(8))
