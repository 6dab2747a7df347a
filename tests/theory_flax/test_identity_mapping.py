"""Learning the identity: measurements of stacks, the claim itself, and the responses of layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import assert_close

from densenet_flax import densenet_bc_40_12
from layers_flax import BatchNorm, Conv
from resnet_flax import (
    BasicBlock,
    BottleneckBlock,
    PreActBasicBlock,
    plain20,
    resnet18,
    resnet20,
    resnet20_v2,
    resnet50,
)
from theory_flax import identity_mapping, layer_responses
from theory_flax.base.estimates import estimate
from theory_flax.identity_mapping.claim import branch_sizes, identity_error, inputs, learning_step, stack_init

BLOCKS = [BasicBlock, PreActBasicBlock, BottleneckBlock]


def stack(block, count=3, features=4):
    shape = (4, 6, 6, features * block.expansion)
    key = jax.random.key(0)
    return stack_init(block, count, key, shape), inputs(block, key, shape)


@pytest.mark.parametrize("kind", BLOCKS)
def test_residuals_at_zero_are_the_identity(x64, kind):
    block = kind(4, zero_init=True)
    variables, x = stack(block)
    assert identity_error(block, variables, x) == 0
    np.testing.assert_array_equal(branch_sizes(block, variables, x), np.zeros(3))


@pytest.mark.parametrize("kind", BLOCKS)
def test_layers_at_zero_are_as_far_from_the_identity_as_zero(x64, kind):
    block = kind(4, zero_init=True, shortcut=None)
    variables, x = stack(block)
    values = np.asarray(x, np.float64)
    expected = (values**2).sum() / ((values - values.mean((0, 1, 2))) ** 2).sum()
    assert float(identity_error(block, variables, x)) == pytest.approx(expected, rel=1e-12)


def test_both_kinds_start_with_the_same_parameters():
    plain, _ = stack(BasicBlock(4, shortcut=None))
    residual, _ = stack(BasicBlock(4))
    jax.tree.map(np.testing.assert_array_equal, plain, residual)


def test_branches_are_measured_block_by_block(x64):
    block = BasicBlock(4)
    variables, x = stack(block, 2)
    sizes = branch_sizes(block, variables, x)
    for own, size in zip(variables, sizes, strict=True):
        branch = block.apply(own, x, True, method="branches")[1]
        assert float(size) == pytest.approx(float(jnp.linalg.norm(branch) / jnp.linalg.norm(x)), rel=1e-12)
        x = jax.nn.relu(x + branch)


@pytest.mark.parametrize("shortcut", [None, "B"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_step_goes_down_the_gradient_of_the_whole_stack(x64, kind, shortcut):
    layers = dict(conv=partial(Conv, param_dtype=jnp.float64), norm=partial(BatchNorm, param_dtype=jnp.float64))
    block = kind(2, shortcut=shortcut, **layers)
    variables, x = stack(block, 2, features=2)
    states = [optax.sgd(0.1).init(own["params"]) for own in variables]
    found, _, error = learning_step(block, optax.sgd, variables, states, x, jnp.asarray(0.1))
    before, gradients = jax.value_and_grad(lambda variables: identity_error(block, variables, x))(variables)
    assert float(error) == pytest.approx(float(before), rel=1e-12)
    for own, gradient, new in zip(variables, gradients, found, strict=True):
        expected = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, own["params"], gradient["params"])
        assert_close(new["params"], expected, 1e-9)
        assert_close(new["batch_stats"], own["batch_stats"], 0)


@pytest.mark.slow
def test_residual_stacks_learn_the_identity_better_the_deeper_the_more():
    found = identity_mapping(
        BasicBlock, counts=(1, 3), rates=(0.03,), seeds=range(3), steps=60, window=10, features=4, size=6
    )
    gaps = [
        estimate(np.log(plain.final_error / residual.final_error))
        for plain, residual in zip(found.plain, found.residual, strict=True)
    ]
    assert all(gap.low > 0 for gap in gaps)
    assert gaps[1].mean > gaps[0].mean
    assert estimate(found.plain[1].final_error - found.plain[0].final_error).low > 0  # degradation on a small scale
    assert found.residual[1].branches_after.mean() < found.residual[1].branches_before.mean()


def test_the_best_learning_rate_is_taken():
    found = identity_mapping(
        BasicBlock, counts=(1,), rates=(1e-6, 0.03), seeds=(0,), steps=20, window=5, features=2, size=4, batch_size=4
    )
    assert found.plain[0].rate == found.residual[0].rate == 0.03
    assert found.residual[0].final_error == found.residual[0].tried[1]
    assert found.residual[0].error.shape == (1, 4)


def test_the_old_name_of_the_optimizer_is_taken_with_a_warning():
    tiny = dict(counts=(1,), rates=(0.1,), seeds=(0,), steps=2, window=1, features=2, size=4, batch_size=2)
    expected = identity_mapping(BasicBlock, optimizer=optax.sgd, **tiny)
    with pytest.warns(DeprecationWarning, match="optimiser= is optimizer= now"):
        found = identity_mapping(BasicBlock, optimiser=optax.sgd, **tiny)
    np.testing.assert_array_equal(found.plain[0].error, expected.plain[0].error)
    assert (found.plain[0].error != identity_mapping(BasicBlock, **tiny).plain[0].error).any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(steps=0), "steps"),
        (dict(window=7), "window must divide"),
        (dict(seeds=()), "seeds"),
        (dict(size=0), "size"),
    ],
)
def test_wrong_numbers_are_refused(wrong, said):
    options = dict(counts=(1,), rates=(0.1,), seeds=(0,), steps=20, window=10) | wrong
    with pytest.raises(ValueError, match=said):
        identity_mapping(BasicBlock, **options)


@pytest.mark.parametrize(
    ("model", "layers"),
    [(plain20(width=4), 19), (resnet20(width=4), 19), (resnet18(width=4), 17), (resnet50(width=4), 49)],
)
def test_responses_of_a_fresh_network_have_the_deviation_that_batch_norm_gives(x64, model, layers):
    images = jax.random.normal(jax.random.key(1), (4, 64, 64, 3))
    variables = model.init(jax.random.key(0), images)
    found = layer_responses(model, variables, images, train=True)
    assert found.shape == (layers,)
    # A channel of variance v gets v / (v + epsilon).
    np.testing.assert_allclose(found, 1, atol=2e-3)


def test_responses_are_those_of_the_layers_in_order(x64):
    model = resnet20(width=4)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = model.init(jax.random.key(0), images)
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: leaf * jnp.asarray(draw.uniform(0.5, 2.0, leaf.shape)), variables)
    found = layer_responses(model, variables, images)
    bound = model.bind(variables)
    assert found[0] == pytest.approx(float(bound.bn1(bound.conv1(images)).std()), rel=1e-12)
    x = bound.stem(images)
    for number, block in enumerate(block for stage in bound.stages for block in stage):
        assert found[2 * number + 1] == pytest.approx(float(block.bn1(block.conv1(x)).std()), rel=1e-12)
        assert found[2 * number + 2] == pytest.approx(float(block.branches(x)[1].std()), rel=1e-12)
        x = block(x)


@pytest.mark.parametrize("model", [resnet20_v2(), densenet_bc_40_12()])
def test_networks_without_such_responses_are_refused(model):
    with pytest.raises(ValueError, match="post-activation"):
        layer_responses(model, {}, jnp.zeros((1, 8, 8, 3)))
