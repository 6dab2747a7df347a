"""Features that equal torchvision's in float64, the network's own parts, and the sizes of `feature_info`."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from flax import linen as nn
from laws import assert_close
from parity import BOUND, error
from small_networks import SMALL, as_if_trained, draw_images64, stages_of
from structure import draw_images, init

from layers_flax import count_multiply_adds, multiply_adds_of
from layers_flax.conv.choices import plain_convolutions
from weights_flax import FeatureInfo, build_model, feature_info, features, from_torch

NAMES = {
    "resnet18": ["stem", "stage0", "stage1", "stage2", "stage3", "pooled", "logits"],
    "resnet20_v2": ["stem", "stage0", "stage1", "stage2", "pooled", "logits"],
    "vgg11_bn": ["stem", "stage0", "stage1", "stage2", "stage3", "stage4", "pooled", "logits"],
    "densenet121": ["stem", "stage0", "stage1", "stage2", "stage3", "pooled", "logits"],
}


@cache
def look(arch):
    """Returns a network, images, variables and features, all in float64; compiled once."""
    model, images = SMALL[arch], draw_images64(2, 64, 96, 3)
    variables = as_if_trained(model, images)
    return model, images, variables, jax.jit(partial(features, model))(variables, images)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet50", "densenet121"])
def test_features_equal_torchvisions(x64, arch):
    """Every value and its place count: weighted sums over pixels, and over channels, are compared for each map."""
    manifest, golden = references.load(arch)
    _, stored = references.load(arch, "_features")
    model = build_model(arch)
    variables = from_torch(model, {name: references.tensor(name, shape) for name, shape in manifest})
    found = jax.jit(partial(features, model))(variables, references.images())
    errors = {
        "logits": error(found["logits"], golden["eval_logits"]),
        "pooled": error(found["pooled"], stored["pooled"]),
    }
    for name in ("stem", "stage0", "stage1", "stage2", "stage3"):
        for projection, value in references.projections(name, np.asarray(found[name])).items():
            errors[projection] = error(value, stored[projection])
    assert len(errors) == len(stored) + 1
    assert all(value <= BOUND for value in errors.values()), errors


@pytest.mark.parametrize("arch", SMALL)
def test_features_are_the_networks_parts(x64, arch):
    model, images, variables, found = look(arch)
    assert list(found) == NAMES[arch]

    def parts(variables):
        x = model.apply(variables, images, method="stem")
        yield x
        for index in range(stages_of(model)):
            x = model.apply(variables, x, index, method="stage")
            yield x
        yield model.apply(variables, images)

    expected = jax.jit(lambda variables: list(parts(variables)))(variables)
    assert_close([found[name] for name in NAMES[arch] if name != "pooled"], expected, 1e-12)
    classify = jax.jit(partial(model.apply, method="classify"))
    assert_close(classify(variables, found["pooled"]), found["logits"], 1e-12)


@pytest.mark.parametrize(("arch", "norm"), [("resnet18", None), ("resnet20_v2", "norm"), ("densenet121", "norm5")])
def test_what_is_pooled_is_the_mean_of_the_activated_map(x64, arch, norm):
    _, _, variables, found = look(arch)
    x = np.asarray(found[NAMES[arch][-3]])
    if norm:
        of_norm, stats = variables["params"][norm], variables["batch_stats"][norm]
        x = np.maximum((x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * of_norm["scale"] + of_norm["bias"], 0)
    np.testing.assert_allclose(found["pooled"], x.mean((1, 2)), rtol=1e-12)


def test_what_vgg_classifies_is_its_map_channel_by_channel(x64):
    """At 224 pixels the last map has 7×7 pixels, which are classified without pooling."""
    model, images = SMALL["vgg11_bn"].clone(width=1), draw_images64(1, 224, 224, 3)
    found = jax.jit(partial(features, model))(as_if_trained(model, images), images)
    np.testing.assert_array_equal(found["stem"], images)
    np.testing.assert_array_equal(found["pooled"].reshape(1, -1, 7, 7), found["stage4"].transpose(0, 3, 1, 2))


def equations(function, *arguments):
    return jax.make_jaxpr(function)(*arguments).eqns


def multiply_adds(program):
    return sum(multiply_adds_of(equation) for equation in program)


@pytest.mark.parametrize("arch", SMALL)
def test_what_follows_is_not_computed(arch):
    """Only the stem and the requested stages run: operations and multiply-adds are theirs."""
    model = SMALL[arch].clone(param_dtype=jnp.float32)
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))

    def stages(variables, images):
        x = model.apply(variables, images, method="stem")
        return model.apply(variables, model.apply(variables, x, 0, method="stage"), 1, method="stage")

    stopped = equations(partial(features, model, stop_at="stage1"), variables, images)
    alone = equations(stages, variables, images)
    whole = equations(partial(features, model), variables, images)
    assert len(stopped) == len(alone) < len(whole)
    assert 0 < multiply_adds(stopped) == multiply_adds(alone) < multiply_adds(whole)
    with plain_convolutions():  # formulas for small images leave out products with padding
        by_definition = equations(partial(features, model), variables, images)
    assert multiply_adds(by_definition) == count_multiply_adds(model, (32, 32, 3))
    assert len(whole) == len(equations(model.apply, variables, images))
    for stop_at, names in (("stem", NAMES[arch][:1]), ("stage1", NAMES[arch][:3]), ("pooled", NAMES[arch][:-1])):
        found = jax.eval_shape(partial(features, model, stop_at=stop_at), variables, images)
        assert list(found) == names


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet20_v2", "densenet121"])
def test_gradients_are_the_networks_and_none_where_nothing_was_computed(x64, arch):
    model, images, variables, _ = look(arch)

    def loss(params, of):
        return jnp.square(of({**variables, "params": params})).sum()

    def logits(variables):
        return features(model, variables, images)["logits"]

    def early(variables):
        return features(model, variables, images, stop_at="stage0")["stage0"]

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    expected = gradient(variables["params"], lambda variables: model.apply(variables, images))
    assert_close(gradient(variables["params"], logits), expected, 1e-11)
    first = ("conv", "bn", "norm0", "layer1", "denseblock1")
    for name, of_module in gradient(variables["params"], early).items():
        moved = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of_module))
        assert (moved > 0) == name.startswith(first), name


@pytest.mark.parametrize("arch", ["resnet18", "densenet121"])
def test_features_under_bfloat16(arch):
    wide = SMALL[arch].clone(param_dtype=jnp.float32)
    model, images = wide.clone(dtype=jnp.bfloat16), draw_images(2, 32, 32, 3)
    variables = init(wide, images)
    found, expected = (jax.jit(partial(features, m))(variables, images) for m in (model, wide))
    for name, value in found.items():
        assert value.dtype == (jnp.float32 if name in ("pooled", "logits") else jnp.bfloat16), name
        # Each of some 20 layers adds a few roundings, of up to 2^-9 each.
        difference = jnp.abs(value.astype(jnp.float32) - expected[name]).max() / jnp.abs(expected[name]).max()
        assert difference <= 60 * 2**-9, name
    assert jnp.abs(found["stage0"] - expected["stage0"]).max() > 0


ORDER = ("stem", "stage0", "stage1", "stage2", "stage3", "stage4")


def infos(*rows):
    return tuple(FeatureInfo(name, *row) for name, row in zip(ORDER, rows, strict=False))


@pytest.mark.parametrize(
    ("arch", "shape", "expected"),
    [
        # He 2015, table 1; Huang 2017, table 1, the blocks; Simonyan 2015, table 1, E.
        (
            "resnet50",
            (224, 224, 3),
            infos((64, 4, 56, 56), (256, 4, 56, 56), (512, 8, 28, 28), (1024, 16, 14, 14), (2048, 32, 7, 7)),
        ),
        (
            "densenet121",
            (224, 224, 3),
            infos((64, 4, 56, 56), (256, 4, 56, 56), (512, 8, 28, 28), (1024, 16, 14, 14), (1024, 32, 7, 7)),
        ),
        (
            "vgg19",
            (224, 224, 3),
            infos(
                (3, 1, 224, 224),
                (64, 2, 112, 112),
                (128, 4, 56, 56),
                (256, 8, 28, 28),
                (512, 16, 14, 14),
                (512, 32, 7, 7),
            ),
        ),
        ("resnet20", (32, 32, 3), infos((16, 1, 32, 32), (16, 1, 32, 32), (32, 2, 16, 16), (64, 4, 8, 8))),
        # No stride divides these sizes: strided convolutions round up, DenseNet's average pools round down.
        ("resnet20", (30, 33, 1), infos((16, 1, 30, 33), (16, 1, 30, 33), (32, 2, 15, 17), (64, 4, 8, 9))),
        ("densenet_bc_40_12", (30, 33, 1), infos((24, 1, 30, 33), (96, 1, 30, 33), (120, 2, 15, 16), (132, 4, 7, 8))),
    ],
)
def test_sizes_of_maps_are_the_papers(arch, shape, expected):
    assert feature_info(build_model(arch), shape) == expected


@pytest.mark.parametrize("arch", SMALL)
def test_sizes_of_maps_are_those_of_the_features(arch):
    model = SMALL[arch].clone(param_dtype=jnp.float32)
    images = jnp.zeros((1, 50, 71, 2))
    maps = jax.eval_shape(lambda: features(model, model.init(jax.random.key(0), images), images))
    info = feature_info(model, (50, 71, 2))
    assert [(i.name, (1, i.height, i.width, i.channels)) for i in info] == [
        (name, maps[name].shape) for name in NAMES[arch][:-2]
    ]


def test_wrong_input_is_named():
    model = SMALL["resnet18"].clone(param_dtype=jnp.float32)
    with pytest.raises(ValueError, match="unknown feature 'stage4'; did you mean 'stage"):
        features(model, {}, jnp.zeros((1, 8, 8, 3)), stop_at="stage4")
    for function in (lambda m: features(m, {}, jnp.zeros((1, 8, 8, 3))), feature_info):
        with pytest.raises(ValueError, match="a model must be a ResNet, PlainNet, VGG or DenseNet; given Dense"):
            function(nn.Dense(3))
    with pytest.raises(ValueError, match="does not fit in an image 1 pixels wide"):
        feature_info(build_model("vgg11_bn"), (16, 16, 3))
