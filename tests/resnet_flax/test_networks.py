"""Whole networks: state, parts, images of any kind, plain twins."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from options import check_frozen_batch_norm, check_remat
from small_networks import as_if_trained
from structure import check_contract, check_narrow_compute, check_parts_compose, draw_images, init

from layers_flax import DropPath, count_parameters
from resnet_flax import (
    ARCHS,
    PlainNet,
    plain20,
    plain34,
    resnet18,
    resnet18_v2,
    resnet20,
    resnet20_v2,
    resnet34,
    resnet50,
    resnet50_v2,
    resnext50_32x4d,
    vgg11,
    vgg11_bn,
    wide_resnet28_10,
)

SMALL = {
    "resnet18": resnet18(width=8, num_classes=5),
    "resnet18_v2": resnet18_v2(width=8, num_classes=5),
    "resnet50": resnet50(width=8, num_classes=5),
    "resnet50_v2": resnet50_v2(width=8, num_classes=5, shortcut="C"),
    "resnext50_32x4d": resnext50_32x4d(width=32, num_classes=5),
    "resnet20": resnet20(width=4),
    "resnet20_v2": resnet20_v2(width=4, zero_init=True),
    "wide_resnet28_10": wide_resnet28_10(width=8, stem_width=4),
    "plain20": plain20(width=4),
    "vgg11": vgg11(width=4, num_classes=5),
    "vgg11_bn": vgg11_bn(width=4, num_classes=5),
}


@pytest.mark.parametrize("arch", SMALL)
def test_contract(arch):
    check_contract(SMALL[arch], draw_images(2, 32, 32, 3))


@pytest.mark.parametrize("arch", SMALL)
def test_parts_compose(arch):
    model = SMALL[arch]
    check_parts_compose(model, draw_images(2, 32, 32, 3), len(model.stage_sizes))


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (2, 33, 47, 3), (1, 40, 32, 1), (3, 32, 64, 4)])
@pytest.mark.parametrize("arch", ["resnet18", "resnet20_v2", "vgg11_bn"])
def test_odd_sizes_batch_of_one_other_channels_and_non_square_images(arch, shape):
    model, images = SMALL[arch], draw_images(*shape)
    assert jax.jit(model.apply)(init(model, images), images).shape == (shape[0], model.num_classes)


@pytest.mark.parametrize("arch", ["resnet20", "resnet20_v2", "resnet18"])
def test_narrow_compute_type(arch):
    check_narrow_compute(SMALL[arch], draw_images(4, 32, 32, 3))


@pytest.mark.parametrize("arch", ["resnet20", "resnet20_v2"])
def test_blocks_of_a_bound_model_are_the_stage(arch):
    model = SMALL[arch]
    images = draw_images(2, 16, 16, 3)
    bound = model.bind(init(model, images))
    x = bound.stem(images)
    for block in bound.stages[0]:
        x = block(x)
    np.testing.assert_allclose(x, bound.stage(bound.stem(images), 0), rtol=1e-6, atol=1e-6)
    assert [len(stage) for stage in bound.stages] == [3, 3, 3]


def test_a_pre_activation_stage_is_a_sum_of_its_input_and_residuals():
    """x_L = x_1 + Σ h_l(x_l) (He 2016, equation 4), on the very blocks of the network."""
    model = SMALL["resnet20_v2"].clone(zero_init=False)
    images = draw_images(2, 16, 16, 3)
    bound = model.bind(init(model, images))
    x = bound.stages[1][0](bound.stage(bound.stem(images), 0))
    total, residuals = x, []
    for block in bound.stages[1][1:]:
        skip, residual = block.branches(x)
        np.testing.assert_array_equal(skip, x)
        residuals.append(residual)
        x = block(x)
    np.testing.assert_allclose(total + sum(residuals), x, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("plain", "residual"), [(plain20, resnet20), (plain34, resnet34)])
def test_a_plain_network_is_its_residual_twin_without_shortcuts(plain, residual):
    """The same parameters, but for projections."""
    model = plain()
    assert isinstance(model, PlainNet)
    shape = (32, 32, 3)
    twin = residual(shortcut="A")
    assert count_parameters(model, shape) == count_parameters(twin, shape)
    images = draw_images(1, *shape)
    variables = init(twin, images)
    assert jax.tree.structure(variables) == jax.tree.structure(init(model, images))
    assert not np.array_equal(model.apply(variables, images), twin.apply(variables, images))


def test_dropout_is_off_in_evaluation_and_drawn_from_its_key():
    model = vgg11(width=4, num_classes=5)
    images = draw_images(2, 32, 32, 3)
    variables = init(model, images)

    def train(key):
        return model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(key)})

    assert not np.array_equal(train(1), train(2))
    off = model.clone(dropout=0.0)
    np.testing.assert_array_equal(off.apply(variables, images, train=True), model.apply(variables, images))


def test_statistics_over_a_mapped_axis_make_one_batch():
    model = SMALL["resnet20"]
    images = draw_images(4, 16, 16, 3)
    variables = init(model, images)
    split = model.clone(axis_name="data")

    def member(images):
        return split.apply(variables, images, train=True, mutable=["batch_stats"])

    logits, updates = jax.jit(jax.vmap(member, axis_name="data"))(images.reshape(2, 2, 16, 16, 3))
    whole = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]))
    expected, expected_updates = whole(images)
    np.testing.assert_allclose(logits.reshape(4, -1), expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(updates), jax.tree.leaves(expected_updates), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-6)


def test_float64_under_x64(x64):
    model = resnet20(width=4, param_dtype=jnp.float64)
    images = draw_images(1, 8, 8, 3).astype(jnp.float64)
    variables = init(model, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, model.apply(variables, images)))} == {
        jnp.dtype(jnp.float64)
    }


@pytest.mark.parametrize("arch", ["resnet20", "vgg11"])
@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 2, 32, 32, 3)])
def test_images_of_the_wrong_rank_are_named(arch, shape):
    with pytest.raises(ValueError, match=f"images must have rank 4.*of rank {len(shape)}"):
        jax.eval_shape(lambda x: ARCHS[arch]().init(jax.random.key(0), x), jnp.zeros(shape))


def test_images_that_are_too_small_are_named():
    with pytest.raises(ValueError, match="a window of 2 with padding 0 does not fit in an image 1 pixels wide"):
        jax.eval_shape(lambda x: vgg11().init(jax.random.key(0), x), jnp.zeros((1, 16, 16, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet20", "resnet20_v2", "resnet50", "plain20"])
def test_remat_changes_memory_alone(x64, arch):
    model, images = SMALL[arch].clone(param_dtype=jnp.float64), draw_images(8, 32, 32, 3).astype(jnp.float64)
    # One block at a time needs two thirds of what three blocks of a stage keep.
    check_remat(model, as_if_trained(model, images), images, less_than=0.6)


@pytest.mark.parametrize("arch", ["resnet20", "resnet50_v2", "vgg11_bn"])
def test_frozen_batch_norm_is_that_of_evaluation(x64, arch):
    model, images = SMALL[arch].clone(param_dtype=jnp.float64), draw_images(2, 32, 32, 3).astype(jnp.float64)
    model = model.clone(dropout=0.0) if arch.startswith("vgg") else model
    check_frozen_batch_norm(model, init(model, images), images)


def test_drop_path_grows_from_nothing_to_its_rate_with_depth():
    bound = SMALL["resnet20"].clone(drop_path=0.4).bind({})
    rates = [block.drop.args[0] for stage in bound.stages for block in stage]
    np.testing.assert_allclose(rates, np.linspace(0, 0.4, 9))


@pytest.mark.parametrize("arch", ["resnet20", "resnet20_v2"])
def test_a_dropped_path_leaves_the_shortcut(arch):
    """At a rate of all but 1, all branches but the first go: what stays of each other block is its shortcut."""
    model, images = SMALL[arch].clone(drop_path=0.99999, stage_sizes=(2, 1)), draw_images(2, 16, 16, 3)
    variables = init(model, images)
    last = model.bind(variables, rngs={"dropout": jax.random.key(0)}).stages[0][1]
    x = nn.relu(jax.random.normal(jax.random.key(1), (2, 8, 8, last.expansion * last.features)))
    block = last.clone(drop=partial(DropPath, 0.99999), parent=None)
    dropped = block.apply(last.variables, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})[0]
    np.testing.assert_array_equal(dropped, x)


def test_drop_path_needs_shortcuts():
    with pytest.raises(ValueError, match=r"drop_path=0.1 would cut a plain network in two; it needs shortcuts"):
        plain20(drop_path=0.1)
    with pytest.raises(ValueError, match="drop_path must be at least 0 and under 1; given 1"):
        resnet20(drop_path=1)
