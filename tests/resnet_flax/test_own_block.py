"""Blocks of one's own: the protocol, an example that trains, and what a class that does not fit is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_flax import BasicBlock, PreActBasicBlock, ResidualBlock, ResNet, deepen, resnet20
from weights_flax import fold_batch_norm

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))


class SqueezeExciteBlock(BasicBlock):
    """A basic block whose residual is scaled, channel by channel, by a gate (Hu et al., arXiv:1709.01507)."""

    def setup(self):
        super().setup()
        self.squeeze, self.excite = nn.Dense(2), nn.Dense(self.channels)

    def branches(self, x, train=False):
        skip, residual = super().branches(x, train)
        gate = nn.sigmoid(self.excite(nn.relu(self.squeeze(residual.mean((1, 2))))))
        return skip, residual * gate[:, None, None, :]


class ScaledBlock(ResidualBlock):
    """2 x + conv(x), by a compact method."""

    @nn.compact
    def branches(self, x, train=False):
        return 2 * x, self.conv(self.features, 3, name="conv1")(x)


def model_of(block, **options):
    return ResNet((2,), block, num_classes=3, stem_type="cifar", width=4, **options)


@pytest.mark.parametrize("options", [{}, dict(remat=True), dict(scan=True)])
def test_a_block_of_ones_own_trains(options):
    model = model_of(SqueezeExciteBlock, **options)
    variables = model.init(jax.random.key(0), IMAGES, train=False)
    assert {"squeeze", "excite"} < variables["params"]["layer1_0"].keys()

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"])
        return jnp.square(logits).mean()

    gradients = jax.grad(loss)(variables["params"])
    plain = model_of(SqueezeExciteBlock)
    expected = jax.grad(
        lambda params: jnp.square(
            plain.apply({**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"])[0]
        ).mean()
    )(variables["params"])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients["layer1_1"]["excite"]))
    # Programs differ in the order of float32 sums of 2 · 64 pixels.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradients, expected)


def test_a_block_of_ones_own_is_folded():
    model = model_of(SqueezeExciteBlock)
    variables = model.init(jax.random.key(0), IMAGES, train=False)
    folded, values = fold_batch_norm(model, variables)
    expected = model.apply(variables, IMAGES)
    np.testing.assert_allclose(folded.apply(values, IMAGES), expected, atol=1e-5 * np.abs(expected).max())


class ForeignNorm(BasicBlock):
    """A block with a BatchNorm of Flax, which does not fold."""

    def setup(self):
        super().setup()
        self.extra = nn.BatchNorm()

    def branches(self, x, train=False):
        skip, residual = super().branches(x, train)
        return skip, self.extra(residual, use_running_average=not train)


class NormWithoutName(ResidualBlock):
    """A block whose norm has Flax's name, which tells its class."""

    @nn.compact
    def branches(self, x, train=False):
        return x, self.norm()(self.conv(self.features, 3, name="conv1")(x), train)


@pytest.mark.parametrize("block", [ForeignNorm, NormWithoutName])
def test_a_block_with_norms_of_another_kind_is_not_folded(block):
    model = model_of(block)
    with pytest.raises(ValueError, match=r"cannot be folded: a block must make norms by self\.norm, under their own"):
        fold_batch_norm(model, model.init(jax.random.key(0), IMAGES))


def test_the_residual_block_adds_its_branches_and_activates_the_sum():
    x = jax.random.normal(jax.random.key(2), (1, 4, 4, 4))
    block = ScaledBlock(4)
    variables = block.init(jax.random.key(0), x)
    skip, residual = block.apply(variables, x, method="branches")
    np.testing.assert_array_equal(skip, 2 * x)
    np.testing.assert_array_equal(block.apply(variables, x), jnp.maximum(skip + residual, 0))


class PreActivated(ResidualBlock):
    """x + conv(relu(norm(x))), without the field `activated`."""

    pre_activation = True

    def setup(self):
        super().setup()
        self.bn, self.conv1 = self.norm(), self.conv(self.features, 3)

    def branches(self, x, train=False):
        return x, self.conv1(nn.relu(self.bn(x, train)))


def test_a_pre_activation_block_of_ones_own_is_built():
    model = model_of(PreActivated)
    variables = model.init(jax.random.key(0), IMAGES)
    assert {"norm", "layer1_1"} < variables["params"].keys()
    assert model.apply(variables, IMAGES).shape == (2, 3)


def test_a_block_that_cannot_start_as_its_shortcut_is_not_deepened():
    model = model_of(PreActivated)
    deeper = model.clone(stage_sizes=(3,))
    with pytest.raises(
        ValueError, match="a new PreActivated is not the identity: with zero_init its residual must be 0"
    ):
        deepen(model, model.init(jax.random.key(0), IMAGES), deeper)


class DroppingBlock(BasicBlock):
    """A block that draws random numbers."""

    def branches(self, x, train=False):
        skip, residual = super().branches(x, train)
        return skip, residual * jax.random.bernoulli(self.make_rng("dropout"), 0.5, residual.shape)


def test_a_block_that_draws_random_numbers_is_no_block_of_a_loop():
    model = ResNet((3,), DroppingBlock, num_classes=3, stem_type="cifar", width=4)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(rngs, IMAGES)
    with pytest.raises(ValueError, match="with scan=True a DroppingBlock must draw no random numbers"):
        model.clone(scan=True).apply(variables, IMAGES, rngs=rngs)


class NoBranches(ResidualBlock):
    """A class whose author forgot the method."""


class NoBlock(nn.Module):
    """A module that is no block at all."""


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (NoBranches, "block must be a class like resnet_flax.ResidualBlock; NoBranches lacks branches"),
        (NoBlock, "NoBlock lacks branches, expansion, pre_activation"),
        (BasicBlock(4), "is no class"),
        ("basic", "'basic' lacks branches, expansion, pre_activation"),
    ],
)
def test_a_class_that_is_no_block_is_named(block, message):
    with pytest.raises(ValueError) as error:
        model_of(block)
    assert message in str(error.value)


@pytest.mark.parametrize("constructor", [BasicBlock, PreActBasicBlock])
def test_built_in_blocks_keep_the_protocol(constructor):
    x = jnp.ones((1, 4, 4, 4))
    block = constructor(4)
    skip, residual = block.apply(block.init(jax.random.key(0), x), x, method="branches")
    assert skip.shape == residual.shape == (1, 4, 4, 4 * constructor.expansion)


def test_images_in_the_order_of_pytorch_are_told():
    for channels in (1, 3):
        message = (
            rf"given shape \(1, {channels}, 32, 32\), which looks like PyTorch's \(batch, channels, height, width\)"
        )
        with pytest.raises(ValueError, match=message):
            resnet20().init(jax.random.key(0), jnp.zeros((1, channels, 32, 32)), train=False)
