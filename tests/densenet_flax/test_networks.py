"""Dense layers, blocks and networks: derivatives, statistics computed once, state, parts, images of any kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close, derivatives, random_variables
from options import check_frozen_batch_norm, check_remat, compiled_gradient, train_scalar
from programs import equations
from small_networks import as_if_trained
from structure import check_contract, check_narrow_compute, check_parts_compose, draw_images, init

from densenet_flax import DenseBlock, DenseLayer, DenseNet, Transition, densenet121, densenet_40_12, densenet_bc_40_12

SMALL = {
    "densenet121": densenet121(block_sizes=(2, 3, 2, 2), growth_rate=4, num_classes=5),
    "densenet_40_12": densenet_40_12(block_sizes=(2, 2, 2), growth_rate=4, num_classes=5),
    "densenet_bc_40_12": densenet_bc_40_12(block_sizes=(2, 2, 2), growth_rate=4, num_classes=5, dropout=0.2),
}
MODULES = {
    "layer": DenseLayer(growth_rate=3),
    "layer without bottleneck": DenseLayer(growth_rate=3, bottleneck_width=None),
    "block": DenseBlock(size=3, growth_rate=2),
    "block without bottleneck": DenseBlock(size=3, growth_rate=2, bottleneck_width=None),
    "transition": Transition(features=3),
}


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", MODULES)
def test_derivatives_equal_those_with_stock_convolutions(x64, kind, train, stock_convolution):
    module, x = MODULES[kind], draw(2, 6, 5, 4)
    variables = random_variables(module, x)

    def run(params, x):
        return module.apply({**variables, "params": params}, x, train)

    ours = derivatives(run, (variables["params"], x))
    stock_convolution()
    assert_close(ours, derivatives(run, (variables["params"], x)), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("bottleneck_width", [4, None])
def test_statistics_computed_once_equal_those_computed_by_every_layer(x64, bottleneck_width):
    """Output, updated running averages and gradients equal those of layers that each look at all features again."""
    block, x = DenseBlock(size=4, growth_rate=3, bottleneck_width=bottleneck_width), draw(3, 5, 6, 4)
    layer = DenseLayer(growth_rate=3, bottleneck_width=bottleneck_width)
    variables = random_variables(block, x)

    def once(params, x):
        return block.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])

    def every_time(params, x):
        updates = {}
        for i in range(1, 5):
            name = f"denselayer{i}"
            parts = {"params": params[name], "batch_stats": variables["batch_stats"][name]}
            new, update = layer.apply(parts, x, True, mutable=["batch_stats"])
            updates[name] = update["batch_stats"]
            x = jnp.concatenate([x, new], -1)
        return x, {"batch_stats": updates}

    arguments = (variables["params"], x)
    assert_close(once(*arguments), every_time(*arguments), 1e-13)

    def first(function):
        return lambda *args: function(*args)[0]

    assert_close(derivatives(first(once), arguments), derivatives(first(every_time), arguments), 1e-11)


def test_each_features_statistics_are_computed_once():
    """A block of n layers reads each feature map's pixels for statistics once: 2 n + 1 means and no more."""
    block = DenseBlock(size=4, growth_rate=3)
    x = jnp.zeros((2, 8, 8, 4))
    variables = block.init(jax.random.key(0), x)
    program = jax.make_jaxpr(lambda v, x: block.apply(v, x, True))(variables, x)
    # The functions with a derivative of their own that give two vectors, mean and variance.
    calls = [one for one in equations(program) if one.primitive.name == "custom_jvp_call" and len(one.outvars) == 2]
    # Of the input, of each layer's bottleneck, and of each layer's output.
    assert len(calls) == 1 + 2 * 4


def test_the_output_begins_with_the_input():
    block, x = DenseBlock(size=3, growth_rate=2), draw_images(2, 4, 4, 5)
    variables = block.init(jax.random.key(0), x)
    y = block.apply(variables, x)
    assert y.shape == (2, 4, 4, 5 + 3 * 2)
    np.testing.assert_array_equal(y[..., :5], x)
    del variables["params"]["denselayer3"], variables["batch_stats"]["denselayer3"]
    np.testing.assert_array_equal(DenseBlock(size=2, growth_rate=2).apply(variables, x), y[..., :9])


@pytest.mark.parametrize("arch", SMALL)
def test_contract(arch):
    check_contract(SMALL[arch], draw_images(2, 32, 32, 3))


@pytest.mark.parametrize("arch", SMALL)
def test_parts_compose(arch):
    model = SMALL[arch]
    check_parts_compose(model, draw_images(2, 32, 32, 3), len(model.block_sizes))


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (2, 33, 47, 3), (1, 40, 32, 1), (3, 32, 64, 4)])
@pytest.mark.parametrize("arch", ["densenet121", "densenet_40_12"])
def test_odd_sizes_batch_of_one_other_channels_and_non_square_images(arch, shape):
    model, images = SMALL[arch], draw_images(*shape)
    assert jax.jit(model.apply)(init(model, images), images).shape == (shape[0], 5)


@pytest.mark.parametrize("arch", ["densenet121", "densenet_40_12"])
def test_narrow_compute_type(arch):
    check_narrow_compute(SMALL[arch], draw_images(4, 32, 32, 3))


def test_layers_of_a_bound_model_are_the_stage():
    model, images = SMALL["densenet121"], draw_images(2, 32, 32, 3)
    bound = model.bind(init(model, images))
    x = bound.stem(images)
    expected = bound.stage(x, 0)
    for layer in bound.blocks[0].layers:
        x = jnp.concatenate([x, layer(x)], -1)
    np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(bound.blocks[1](bound.transitions[0](x)), bound.stage(expected, 1), rtol=1e-5, atol=1e-5)


def test_dropout_is_off_in_evaluation_and_drawn_from_its_key():
    model, images = SMALL["densenet_bc_40_12"], draw_images(2, 16, 16, 3)
    variables = init(model, images)

    def train(model, key):
        return model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(key)})

    assert not np.array_equal(train(model, 1), train(model, 2))
    off = model.clone(dropout=0.0)
    np.testing.assert_array_equal(train(off, 1), train(off, 2))
    np.testing.assert_array_equal(off.apply(variables, images), model.apply(variables, images))


def test_statistics_over_a_mapped_axis_make_one_batch():
    model, images = SMALL["densenet_40_12"], draw_images(4, 16, 16, 3)
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


@pytest.mark.slow
def test_images_of_the_wrong_rank_or_too_small_are_named():
    def shape_of(*shape):
        return jax.eval_shape(lambda x: densenet121().init(jax.random.key(0), x), jnp.zeros(shape))

    with pytest.raises(ValueError, match=r"images must have rank 4.*given shape \(32, 32, 3\) of rank 3"):
        shape_of(32, 32, 3)
    with pytest.raises(ValueError, match="a window of 2 with padding 0 does not fit in an image 1 pixels wide"):
        shape_of(1, 16, 16, 3)


def test_the_class_takes_any_number_of_blocks():
    model = DenseNet(block_sizes=(1, 1, 1, 1, 1), growth_rate=2, stem_type="cifar", num_classes=3)
    check_parts_compose(model, draw_images(2, 16, 16, 3), 5)


@pytest.mark.slow
@pytest.mark.parametrize("bottleneck_width", [4, None])
def test_derivatives_are_the_same_under_remat(x64, bottleneck_width):
    block, x = DenseBlock(size=3, growth_rate=2, bottleneck_width=bottleneck_width), draw(2, 6, 5, 4)
    variables = random_variables(block, x)

    def all_of(block):
        return derivatives(lambda params, x: block.apply({**variables, "params": params}, x, True), (params, x))

    params = variables["params"]
    assert_close(all_of(block.clone(remat=True)), all_of(block), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["densenet121", "densenet_40_12", "densenet_bc_40_12"])
def test_remat_changes_memory_alone(x64, arch):
    model = SMALL[arch].clone(param_dtype=jnp.float64, block_sizes=(12, 12))
    images = draw_images(8, 32, 32, 3).astype(jnp.float64)
    check_remat(model, as_if_trained(model, images), images, less_than=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("bottleneck_width", [4, None])
def test_memory_grows_linearly_with_depth_under_remat(bottleneck_width):
    """Of a layer stay what it adds, and what its bottleneck gives; of a layer at a time, all that it sees."""

    def megabytes(size, remat):
        model = DenseNet((size,), 12, 5, "cifar", bottleneck_width=bottleneck_width, remat=remat)
        images = jnp.ones((8, 16, 16, 3))
        variables = init(model, images)
        return compiled_gradient(train_scalar(model, variables, images), variables["params"])[1]

    sizes = (4, 8, 12)
    plain, again = (np.array([megabytes(size, remat) for size in sizes]) for remat in (False, True))
    assert np.diff(plain, 2) > 0.2 * np.diff(plain)[0]
    # Small arrays of all layers, and how buffers fit, are not to the byte.
    assert abs(np.diff(again, 2)) < 0.1 * np.diff(again)[0]
    assert again[-1] < 0.5 * plain[-1]


@pytest.mark.slow
def test_frozen_batch_norm_is_that_of_evaluation(x64):
    model = SMALL["densenet121"].clone(param_dtype=jnp.float64)
    images = draw_images(2, 32, 32, 3).astype(jnp.float64)
    check_frozen_batch_norm(model, init(model, images), images)
