"""Folded networks compute what the networks compute, with fewer parameters and no statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from laws import assert_close

import densenet_flax
import resnet_flax
from layers_flax import BatchNorm
from weights_flax import build_model, fold_batch_norm, from_torch, to_torch

OPTIONS = {
    "resnet18": dict(width=8, num_classes=5),
    "resnet18 with shortcut C": dict(width=8, num_classes=5, shortcut="C", remat=True),
    "resnet50": dict(width=8, num_classes=5, zero_init=True),
    "resnet50 v1": dict(width=8, num_classes=5, bottleneck_stride="v1"),
    "resnet18_v2": dict(width=8, num_classes=5),
    "resnet50_v2": dict(width=8, num_classes=5, shortcut="C", zero_init=True),
    "resnext50_32x4d": dict(width=32, num_classes=5),
    "resnet20": dict(width=4, drop_path=0.5),
    "resnet20 with shortcut B": dict(width=4, shortcut="B", stem_width=3),
    "resnet20_v2": dict(width=4),
    "plain20": dict(width=4),
    "vgg11": dict(width=4, num_classes=5),
    "vgg11_bn": dict(width=4, num_classes=5),
    "densenet121": dict(block_sizes=(2, 3, 2, 2), growth_rate=4, num_classes=5),
    "densenet_40_12": dict(block_sizes=(2, 2, 2), growth_rate=4),
    "densenet_bc_40_12": dict(block_sizes=(2, 2, 2), growth_rate=4, dropout=0.2, remat=True),
}


def draw_images(shape=(2, 32, 32, 3), dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


def draw_variables(model, channels=3):
    """Draws weights that keep the scale of their inputs, statistics that differ, scales of both signs and zero."""
    images = jnp.zeros((1, 32, 32, channels), jnp.float32)
    shapes = flatten_dict(jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False)))
    rng = np.random.default_rng(1)
    leaves = {}
    for path, leaf in shapes.items():
        if path[-1] == "kernel":
            value = rng.standard_normal(leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif path[-1] == "var":
            value = rng.uniform(0.2, 3, leaf.shape)
        elif path[-1] == "scale":
            value = rng.uniform(0.5, 1.5, leaf.shape) * rng.choice([-1, 1, 1], leaf.shape)
            value[0] = 0
        else:
            value = 0.3 * rng.standard_normal(leaf.shape)
        leaves[path] = jnp.asarray(value, leaf.dtype)
    return {"batch_stats": {}, **unflatten_dict(leaves)}


def draw(name, **options):
    model = build_model(name.split()[0], **OPTIONS[name], **options)
    return model, draw_variables(model)


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_the_same(x64, name):
    model, variables = draw(name, param_dtype=jnp.float64)
    folded, values = fold_batch_norm(model, variables)
    images = draw_images()
    logits = jax.jit(model.apply)(variables, images)
    assert np.abs(logits).max() > 1e-3
    assert_close(jax.jit(folded.apply)(values, images), logits, 1e-12)


@pytest.mark.parametrize("name", OPTIONS)
def test_shapes_are_those_of_init_and_statistics_are_gone(name):
    model, variables = draw(name)
    folded, values = fold_batch_norm(model, variables)
    shapes = jax.eval_shape(lambda: folded.init(jax.random.key(0), draw_images(dtype=jnp.float32), train=False))
    assert set(values) == set(shapes) == {"params", "batch_stats"}
    assert values["batch_stats"] == {}
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), values) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("resnet50", set()),
        ("vgg11_bn", set()),
        ("plain20", set()),
        # The input of a network's first block is already activated by the stem.
        ("resnet20_v2", {f"layer{i + 1}_{j}/bn1" for i in range(3) for j in range(3)} - {"layer1_0/bn1"} | {"norm"}),
        (
            "densenet_bc_40_12",
            {f"denseblock{i + 1}/denselayer{j + 1}/norm1" for i in range(3) for j in range(2)}
            | {"transition1/norm", "transition2/norm", "norm5"},
        ),
        (
            "densenet_40_12",
            {f"denseblock{i + 1}/denselayer{j + 1}/norm1" for i in range(3) for j in range(2)}
            | {"transition1/norm", "transition2/norm", "norm5"},
        ),
    ],
)
def test_only_what_stands_behind_no_convolution_stays_a_scale_and_a_shift(name, kept):
    _, values = fold_batch_norm(*draw(name))
    paths = flatten_dict(values["params"])
    assert {"/".join(path[:-1]) for path in paths if path[-1] == "scale"} == kept


@pytest.mark.parametrize("name", ["resnet50", "resnet20_v2", "vgg11_bn", "densenet121"])
def test_parts_compose(x64, name):
    model, variables = draw(name, param_dtype=jnp.float64)
    folded, values = fold_batch_norm(model, variables)
    images = draw_images()

    def parts(values):
        x = folded.apply(values, images, method="stem")
        for index in range(len(model.block_sizes if hasattr(model, "block_sizes") else model.stage_sizes)):
            x = folded.apply(values, x, index, method="stage")
        return folded.apply(values, x, method="head")

    assert_close(jax.jit(parts)(values), jax.jit(model.apply)(variables, images), 1e-12)


@pytest.mark.parametrize("name", ["resnet18", "resnet20_v2", "vgg11_bn", "densenet121", "densenet_40_12"])
def test_gradients_with_respect_to_images_are_the_same(x64, name):
    model, variables = draw(name, param_dtype=jnp.float64)
    folded, values = fold_batch_norm(model, variables)
    images = draw_images()

    def gradient(network, values):
        return jax.jit(jax.grad(lambda images: jnp.square(network.apply(values, images)).sum()))(images)

    # Rounding could flip the mask of a ReLU whose input is almost zero; no input here is so small.
    assert_close(gradient(folded, values), gradient(model, variables), 1e-11)


@pytest.mark.parametrize("shape", [(1, 33, 47, 3), (1, 40, 32, 1), (3, 32, 64, 4)])
@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_odd_sizes_other_channels_and_non_square_images(x64, name, shape):
    model = build_model(name, **OPTIONS[name], param_dtype=jnp.float64)
    variables = draw_variables(model, shape[-1])
    folded, values = fold_batch_norm(model, variables)
    images = draw_images(shape)
    assert_close(jax.jit(folded.apply)(values, images), jax.jit(model.apply)(variables, images), 1e-12)


@pytest.mark.parametrize("name", ["resnet50", "resnet50_v2", "vgg11_bn", "densenet121", "densenet_40_12"])
def test_single_precision(name):
    """Folded weights are rounded once more: each of 20 to 50 layers adds a few roundings of 2^-24."""
    model, variables = draw(name)
    folded, values = fold_batch_norm(model, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(values)} == {jnp.dtype(jnp.float32)}
    images = draw_images(dtype=jnp.float32)
    assert_close(jax.jit(folded.apply)(values, images), jax.jit(model.apply)(variables, images), 1e-5)


def test_narrow_compute_keeps_wide_parameters_and_logits():
    model, variables = draw("resnet20", dtype=jnp.bfloat16)
    folded, values = fold_batch_norm(model, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(values)} == {jnp.dtype(jnp.float32)}
    images = draw_images(dtype=jnp.float32)
    logits = jax.jit(folded.apply)(values, images)
    assert logits.dtype == jnp.float32
    # bfloat16 rounds by up to 2^-9, and each of 20 layers adds a few roundings of its own.
    assert_close(logits, jax.jit(model.apply)(variables, images), 60 * 2**-9)


@pytest.mark.parametrize("name", ["resnet20_v2", "densenet_bc_40_12"])
def test_epsilon_is_the_layers_own(x64, monkeypatch, name):
    monkeypatch.setattr("layers_flax.model.network.BatchNorm", partial(BatchNorm, epsilon=0.3))
    model, variables = draw(name, param_dtype=jnp.float64)
    folded, values = fold_batch_norm(model, variables)
    images = draw_images()
    assert_close(jax.jit(folded.apply)(values, images), jax.jit(model.apply)(variables, images), 1e-12)


def test_a_constant_channel_is_folded_by_epsilon_alone(x64):
    model, variables = draw("resnet18", param_dtype=jnp.float64)
    variables["batch_stats"]["bn1"]["var"] = jnp.zeros_like(variables["batch_stats"]["bn1"]["var"])
    folded, values = fold_batch_norm(model, variables)
    images = draw_images()
    assert_close(jax.jit(folded.apply)(values, images), jax.jit(model.apply)(variables, images), 1e-12)


@pytest.mark.parametrize("value", [-1e-3, np.nan, np.inf])
def test_a_running_variance_that_is_none_is_named(value):
    model, variables = draw("resnet18")
    stats = variables["batch_stats"]["layer2_0"]["bn2"]
    stats["var"] = stats["var"].at[1].set(value)
    with pytest.raises(ValueError, match="the running variance of layer2_0/bn2 must be finite and not negative; given"):
        fold_batch_norm(model, variables)


def test_variables_of_another_network_are_named():
    model, variables = draw("resnet18")
    with pytest.raises(ValueError, match="not the model's: batch_stats/bn1/mean must have shape"):
        fold_batch_norm(model.clone(width=4, stem_width=4), variables)
    with pytest.raises(ValueError, match="not the model's: batch_stats/layer1_2/bn1/mean is missing"):
        fold_batch_norm(model.clone(stage_sizes=(3, 2, 2, 2)), variables)
    with pytest.raises(ValueError, match="not the model's: batch_stats/layer1_1/bn1/mean is not in it"):
        fold_batch_norm(model.clone(stage_sizes=(1, 2, 2, 2)), variables)
    with pytest.raises(ValueError, match="no first convolution"):
        fold_batch_norm(model, {"params": {}})


def test_what_cannot_be_folded():
    model, variables = draw("resnet18")
    with pytest.raises(ValueError, match="the ResNet is folded already"):
        fold_batch_norm(*fold_batch_norm(model, variables))
    with pytest.raises(ValueError, match="a ResNet, PlainNet, VGG or DenseNet can be folded; given a BatchNorm"):
        fold_batch_norm(BatchNorm(), variables)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121"])
def test_a_folded_network_refuses_to_train(name):
    folded, values = fold_batch_norm(*draw(name))
    images = draw_images(dtype=jnp.float32)
    for arguments, method in [
        ((images,), "__call__"),
        ((images,), "stem"),
        ((images, 0), "stage"),
        ((images,), "head"),
    ]:
        with pytest.raises(ValueError, match="train=True: a folded network has no BatchNorm left to train"):
            folded.apply(values, *arguments, train=True, method=method)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_a_folded_network_goes_through_pytorchs_names_and_back(name):
    folded, values = fold_batch_norm(*draw(name))
    tensors = to_torch(folded, values)
    first = "conv1" if name == "resnet18" else "features.conv0"
    np.testing.assert_array_equal(tensors[f"{first}.bias"], values["params"][first.split(".")[-1]]["bias"])
    jax.tree.map(np.testing.assert_array_equal, from_torch(folded, tensors), values)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_a_folded_network_is_not_deepened(name):
    folded, values = fold_batch_norm(*draw(name))
    deepen = densenet_flax.deepen if name.startswith("densenet") else resnet_flax.deepen
    with pytest.raises(ValueError, match="a folded network cannot be deepened"):
        deepen(folded, values, folded)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet50", "densenet121", "vgg19_bn", "resnext50_32x4d"])
def test_real_widths_in_single_precision(arch):
    model = build_model(arch)
    variables = draw_variables(model)
    folded, values = fold_batch_norm(model, variables)
    images = draw_images((1, 224, 224, 3), jnp.float32)
    assert_close(jax.jit(folded.apply)(values, images), jax.jit(model.apply)(variables, images), 1e-5)
