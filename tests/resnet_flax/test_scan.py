"""Blocks as a loop: the same numbers as one by one, whatever is asked of the network; thousands of layers compile."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from laws import assert_close
from options import train_scalar
from programs import count
from small_networks import as_if_trained
from structure import draw_images

from resnet_flax import (
    BasicBlock,
    BottleneckBlock,
    PlainNet,
    PreActBasicBlock,
    PreActBottleneckBlock,
    ResNet,
    resnet20,
    resnet1202,
    stack_blocks,
    unstack_blocks,
)
from training_flax import compiler_options, make_train_step, start_state

OPTIONS = dict(num_classes=5, stem_type="cifar", width=4, param_dtype=jnp.float64, scan=True)
KINDS = {
    "basic": ResNet((3, 3), BasicBlock, shortcut="A", **OPTIONS),
    "bottleneck": ResNet((3,), BottleneckBlock, **OPTIONS),
    "basic_v2": ResNet((3,), PreActBasicBlock, **OPTIONS),
    "bottleneck_v2": ResNet((3,), PreActBottleneckBlock, **OPTIONS),
    "plain": PlainNet((3,), BasicBlock, **OPTIONS),
    "projections": ResNet((3,), BasicBlock, shortcut="C", **OPTIONS),
    "resnext": ResNet((3,), BottleneckBlock, groups=2, width_per_group=32, **OPTIONS),
    "unbiased": ResNet((3,), BasicBlock, running_variance="unbiased", **OPTIONS),
    "frozen": ResNet((3,), BasicBlock, frozen_batch_norm=True, **OPTIONS),
    "remat": ResNet((3,), BasicBlock, remat=True, **OPTIONS),
}


def setting(kind):
    """The network as a loop, block by block, its variables and images."""
    model, images = KINDS[kind], draw_images(4, 8, 8, 3).astype(jnp.float64)
    return model, model.clone(scan=False), as_if_trained(model, images), images


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_over_blocks_computes_the_same(x64, kind):
    rolled, unrolled, variables, images = setting(kind)
    ours, theirs = (train_scalar(model, variables, images) for model in (rolled, unrolled))
    assert count("scan", rolled.apply, variables, images) == len(rolled.stage_sizes)
    assert count("scan", unrolled.apply, variables, images) == 0
    assert_close(jax.jit(rolled.apply)(variables, images), jax.jit(unrolled.apply)(variables, images), 1e-12)
    found, expected = (
        jax.jit(jax.value_and_grad(scalar, has_aux=True))(variables["params"]) for scalar in (ours, theirs)
    )
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    (_, logits_and_statistics), gradient = found
    assert_close(logits_and_statistics, expected[0][1], 1e-12)
    # Before a BatchNorm, gradients are small differences of large numbers.
    assert_close(gradient, expected[1], 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_variables_are_those_of_single_blocks(x64, kind):
    model, _, variables, images = setting(kind)
    stacked = stack_blocks(variables)
    stages = len(model.stage_sizes)
    assert {name for name in stacked["params"] if name.endswith("rest")} == {
        f"layer{i + 1}_rest" for i in range(stages)
    }
    assert len(stacked["params"]["layer1_rest"]["bn1"]["scale"]) == model.stage_sizes[0] - 1
    back = unstack_blocks(stacked)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    assert unstack_blocks(variables).keys() == variables.keys()
    single, together = (
        jax.jit(jax.value_and_grad(train_scalar(model, each, images), has_aux=True))(each["params"])
        for each in (variables, stacked)
    )
    (value, (logits, stats)), gradient = together
    assert_close((value, logits), (single[0][0], single[0][1][0]), 1e-14)
    found = unstack_blocks({"params": gradient, "batch_stats": stats})
    assert_close(found, {"params": single[1], "batch_stats": single[0][1][1]}, 1e-12)
    assert_close(jax.jit(model.apply)(stacked, images), jax.jit(model.apply)(variables, images), 1e-14)


@pytest.mark.slow
def test_a_step_moves_stacked_variables_as_single_blocks(x64):
    model, _, variables, images = setting("basic")
    optimiser, labels = optax.sgd(0.1, momentum=0.9), jnp.arange(4) % 5
    step = jax.jit(make_train_step(model, optimiser))

    def trained(variables):
        state = start_state(variables, optimiser, jax.random.key(0))
        for _ in range(2):
            state, metrics = step(state, images, labels)
        return {"params": state.params, "batch_stats": state.batch_stats}, metrics

    (single, told), (stacked, told_of_stacked) = trained(variables), trained(stack_blocks(variables))
    assert_close((unstack_blocks(stacked), told_of_stacked), (single, told), 1e-11)


def test_a_single_block_of_stacked_variables_cannot_be_frozen():
    model, optimiser = resnet20(width=4, scan=True), optax.sgd(0.1)
    images = draw_images(2, 8, 8, 3)
    variables = model.init(jax.random.key(0), images)
    step = make_train_step(model, optimiser, freeze=("layer1_2/*",))

    def traced(variables):
        state = start_state(variables, optimiser, jax.random.key(0))
        return jax.eval_shape(step, state, images, jnp.arange(2))

    traced(variables)
    with pytest.raises(ValueError, match=r"^unknown freeze pattern 'layer1_2/\*'; did you mean 'layer1_0/\*'"):
        traced(stack_blocks(variables))


def test_stacked_variables_are_refused_where_blocks_run_one_by_one():
    model = resnet20(width=4, scan=True)
    images = draw_images(2, 8, 8, 3)
    stacked = stack_blocks(model.init(jax.random.key(0), images))
    with pytest.raises(ValueError, match=r"^blocks of layer1 are stacked, and run one by one here; see unstack_blocks"):
        model.clone(scan=False).apply(stacked, images)
    with pytest.raises(ValueError, match="blocks of layer1 are stacked"):
        model.apply(stacked, images, mutable=["intermediates"])


@pytest.mark.slow
def test_a_thousand_layers_compile_in_a_minute_and_train(all_of_llvm):
    """ResNet-1202: by default blocks are a loop; He 2015, section 4.2, starts it with a small rate."""
    model, optimiser = resnet1202(), optax.sgd(0.001, momentum=0.9)
    images, labels = draw_images(4, 32, 32, 3), jnp.arange(4)
    variables = jax.jit(stack_blocks)(model.init(jax.random.key(0), images))
    state = start_state(variables, optimiser, jax.random.key(1))
    lowered = jax.jit(make_train_step(model, optimiser), donate_argnums=0).lower(state, images, labels)
    start = time.perf_counter()
    step = lowered.compile(compiler_options=compiler_options())
    assert time.perf_counter() - start < 60
    losses = []
    for _ in range(20):  # after eight, rounding decides what it has learnt of four images; these are enough by far
        state, metrics = step(state, images, labels)
        losses.append(float(metrics.loss))
    assert int(state.skipped) == 0
    assert losses[-1] < losses[0] / 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["basic_v2"])
def test_forward_mode_and_second_order(x64, kind):
    rolled, unrolled, variables, images = setting(kind)

    def derivatives(model):
        scalar = train_scalar(model, variables, images)

        def loss(params):
            return scalar(params)[0]

        def both(params):
            along = jax.tree.map(jnp.sin, params)
            slope = jax.jvp(loss, (params,), (along,))
            product = jax.jvp(jax.grad(loss), (params,), (along,))[1]
            return (
                slope,
                product,
                jax.grad(lambda params: jnp.square(jax.grad(loss)(params)["fc"]["bias"]).sum())(params),
            )

        return jax.jit(both)(variables["params"])

    assert_close(derivatives(rolled), derivatives(unrolled), 1e-9)


def test_statistics_over_a_mapped_axis(x64):
    rolled, unrolled, variables, images = setting("basic_v2")
    found, expected = (
        jax.jit(
            jax.vmap(
                lambda images, model=model: jax.value_and_grad(train_scalar(model, variables, images), has_aux=True)(
                    variables["params"]
                ),
                axis_name="data",
            )
        )(images.reshape(2, 2, *images.shape[1:]))
        for model in (rolled.clone(axis_name="data"), unrolled.clone(axis_name="data"))
    )
    assert_close(found, expected, 1e-11)


def kept_values(scalar, params):
    """How many numbers the backward pass needs of the forward one, beside the parameters."""
    backward = jax.eval_shape(lambda params: jax.vjp(scalar, params, has_aux=True)[1], params)
    return sum(leaf.size for leaf in jax.tree.leaves(backward)) - sum(leaf.size for leaf in jax.tree.leaves(params))


def test_a_loop_keeps_the_blocks_inputs_alone():
    """Of 7 maps that a block keeps, 1; the first block and the stem keep all of theirs."""
    model, images = KINDS["basic"].clone(stage_sizes=(6,), param_dtype=jnp.float32), draw_images(8, 16, 16, 3)
    variables = model.init(jax.random.key(0), images)
    rolled, unrolled = (
        kept_values(train_scalar(model.clone(scan=scan), variables, images), variables["params"])
        for scan in (True, False)
    )
    assert rolled < 0.4 * unrolled


def test_what_watches_single_blocks_or_drops_them_finds_them():
    model = resnet20(width=4, scan=True)
    images = draw_images(2, 8, 8, 3)
    assert count("scan", lambda key: model.init(key, images), jax.random.key(0)) == 0
    variables = model.init(jax.random.key(0), images)
    _, seen = model.apply(variables, images, capture_intermediates=lambda module, _: isinstance(module, BasicBlock))
    assert len([name for name in seen["intermediates"] if name.startswith("layer")]) == 9
    dropping, rngs = model.clone(drop_path=0.2), {"dropout": jax.random.key(0)}

    def train(variables):
        return dropping.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)

    assert count("scan", train, variables) == 0
    assert count("scan", dropping.apply, variables, images) == 3


def test_running_statistics_can_be_left_alone():
    model = resnet20(width=4, scan=True)
    images = draw_images(2, 8, 8, 3)
    variables = model.init(jax.random.key(0), images)
    logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(model.apply(variables, images, train=True), logits)
    assert isinstance(model.bind(variables).stages[0][1], nn.Module)
    moved = jax.tree.map(
        lambda new, old: not np.array_equal(new, old), updates["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
