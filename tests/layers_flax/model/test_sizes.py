"""Sizes at their edges: no image, images too small, sizes that are symbols; and multiply-adds, published and not."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from layers_flax import (
    Conv,
    Linear,
    adaptive_avg_pool,
    avg_pool,
    conv2d,
    count_multiply_adds,
    global_avg_pool,
    max_pool,
)
from layers_flax.nn.dropout import Dropout, DropPath
from resnet_flax import VGG
from weights_flax.io.archs import ARCHS, build_model
from weights_flax.look.summary import table

POOLS = {
    "max 3, 2": lambda x: max_pool(x, 3, 2, 1),
    "max 2": lambda x: max_pool(x, 2),
    "max same": lambda x: max_pool(x, 3, 2, "same"),
    "average 2": lambda x: avg_pool(x, 2),
    "average 3, 2": lambda x: avg_pool(x, 3, 2, 1),
    "average same": lambda x: avg_pool(x, 3, 2, "same"),
    "global": global_avg_pool,
    "adaptive": lambda x: adaptive_avg_pool(x, 3),
}


EMPTY = "images must have pixels; given shape {}"
PADDING = "padding must be 'same', or from 0 to half the window of 3; given "
IMAGES = jnp.zeros((1, 8, 8, 1))


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("batch", [0, 2])
def test_pools_take_an_empty_batch(pool, batch):
    shape = pool(jnp.ones((2, 8, 8, 4))).shape
    x = jnp.ones((batch, 8, 8, 4))
    assert pool(x).shape == (batch, *shape[1:])
    assert jax.grad(lambda x: pool(x).sum())(x).shape == x.shape


SMALL = {
    "resnet20": dict(width=2),
    "resnet18": dict(width=2),
    "resnet50_v2": dict(width=2),
    "resnext50_32x4d": {},
    "densenet_bc_40_12": dict(growth_rate=2),
    "densenet121": dict(growth_rate=2),
    "vgg11_bn": dict(width=1),
}


@pytest.mark.parametrize("arch", SMALL)
def test_networks_give_no_logits_for_no_images(arch):
    model = build_model(arch, num_classes=7, **SMALL[arch])
    images = jnp.zeros((0, 64, 64, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images[:1], train=False))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
    assert jax.jit(model.apply)(variables, images).shape == (0, 7)
    with pytest.raises(ValueError, match="an empty batch has no statistics to train with; give at least one image"):
        model.apply(variables, images, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv(0), "features must be a positive integer; given 0"),
        (lambda: Conv(4, 0), "kernel_size must be a positive integer; given 0"),
        (lambda: Conv(4, 3, 0), "stride must be a positive integer; given 0"),
        (lambda: Conv(4, groups=0), "groups must be a positive integer; given 0"),
        (lambda: Conv(-1), "features must be a positive integer; given -1"),
        (lambda: Linear(0), "features must be a positive integer; given 0"),
        (lambda: max_pool(jnp.zeros((1, 4, 4, 1)), 0), "window must be a positive integer; given 0"),
        (lambda: max_pool(jnp.zeros((1, 4, 4, 1)), 2, 0), "stride must be a positive integer; given 0"),
        (lambda: avg_pool(jnp.zeros((1, 4, 4, 1)), 2, -2), "stride must be a positive integer; given -2"),
        (lambda: conv(stride=0), "stride must be a positive integer; given 0"),
        (lambda: conv(groups=0), "groups must be a positive integer; given 0"),
        (lambda: conv(padding=-1), "padding must be None, 'same' or an integer of at least 0; given -1"),
        (lambda: conv(padding=0), "a window of 5 with padding 0 does not fit in an image 4 pixels high"),
        (lambda: called(Conv(4), 2, 8, 8, 0), "images must have channels; given shape (2, 8, 8, 0)"),
        (lambda: called(Linear(3), 2, 0), "the input must have values; given shape (2, 0)"),
        (lambda: kernel(0, 3, 3, 4), "a kernel must have taps and channels; given shape (0, 3, 3, 4)"),
        (lambda: kernel(3, 0, 3, 4), "a kernel must have taps and channels; given shape (3, 0, 3, 4)"),
        (lambda: kernel(3, 3, 3, 0), "a kernel must have taps and channels; given shape (3, 3, 3, 0)"),
        (lambda: Dropout(1.0), "rate must be at least 0 and under 1; given 1.0"),
        (lambda: Dropout(-0.1), "rate must be at least 0 and under 1; given -0.1"),
        (lambda: DropPath(float("nan")), "rate must be at least 0 and under 1; given nan"),
        (lambda: Dropout("0.5"), "rate must be at least 0 and under 1; given '0.5'"),
        *((lambda pool=pool: pool(jnp.zeros((2, 0, 4, 1))), EMPTY.format("(2, 0, 4, 1)")) for pool in POOLS.values()),
        *((lambda pool=pool: pool(jnp.zeros((2, 4, 0, 1))), EMPTY.format("(2, 4, 0, 1)")) for pool in POOLS.values()),
        *((lambda pool=pool: pool(IMAGES, 3, 2, "valid"), PADDING + "'valid'") for pool in (max_pool, avg_pool)),
        *((lambda pool=pool: pool(IMAGES, 3, 2, None), PADDING + "None") for pool in (max_pool, avg_pool)),
        *((lambda pool=pool: pool(IMAGES, 3, 2, 1.0), PADDING + "1.0") for pool in (max_pool, avg_pool)),
        *((lambda pool=pool: pool(IMAGES, 3, 2, -1), PADDING + "-1") for pool in (max_pool, avg_pool)),
    ],
)
def test_layers_name_what_is_not_allowed(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def called(layer, *shape):
    return layer.init(jax.random.key(0), jnp.zeros(shape))


def kernel(*shape):
    return conv2d(jnp.zeros((1, 4, 4, shape[2])), jnp.zeros(shape))


NUMPYS = {
    "features": lambda x: called_once(Conv(np.int64(4)), x),
    "kernel": lambda x: called_once(Conv(4, np.int32(3)), x),
    "stride": lambda x: called_once(Conv(4, 3, np.int64(2), np.int64(1)), x),
    "groups": lambda x: called_once(Conv(np.int64(6), groups=np.int64(3)), x),
    "classes": lambda x: called_once(Linear(np.int64(3)), x[:, 0, 0]),
    "max pool": lambda x: max_pool(x, np.int64(3), np.int64(2), np.int64(1)),
    "average pool": lambda x: avg_pool(x, np.int64(2)),
    "rate": lambda x: called_once(Dropout(np.float32(0.5)), x),
    "network": lambda x: called_once(build_model("resnet20", num_classes=np.int64(3), width=np.int64(2)), x),
}
INTEGERS = {
    "features": lambda x: called_once(Conv(4), x),
    "kernel": lambda x: called_once(Conv(4, 3), x),
    "stride": lambda x: called_once(Conv(4, 3, 2, 1), x),
    "groups": lambda x: called_once(Conv(6, groups=3), x),
    "classes": lambda x: called_once(Linear(3), x[:, 0, 0]),
    "max pool": lambda x: max_pool(x, 3, 2, 1),
    "average pool": lambda x: avg_pool(x, 2),
    "rate": lambda x: called_once(Dropout(0.5), x),
    "network": lambda x: called_once(build_model("resnet20", num_classes=3, width=2), x),
}


def called_once(layer, x):
    return layer.init_with_output(jax.random.key(0), x)[0]


@pytest.mark.parametrize("case", NUMPYS)
def test_numbers_of_numpy_are_numbers(case):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)
    np.testing.assert_array_equal(NUMPYS[case](x), INTEGERS[case](x))


def conv(**options):
    return conv2d(jnp.zeros((1, 4, 4, 1)), jnp.zeros((5, 5, 1, 2)), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "least"),
    [
        *(pytest.param(*row, marks=pytest.mark.slow) for row in (("densenet121", 29), ("densenet_100_12", 4))),
        *(("densenet_bc_40_12", 4), ("vgg11", 32)),
    ],
)
def test_an_image_that_is_too_small_names_the_least_size(arch, least):
    model = build_model(arch, **{"growth_rate": 2} if "densenet" in arch else {"width": 1})

    def shape(height, width):
        images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(images.shape), train=False))

    for sides in ((least - 1, 40), (40, 1)):
        with pytest.raises(ValueError, match=rf"does not fit in an image .*; \w+ needs at least {least}×{least}"):
            shape(*sides)
    shape(least, least)


def test_a_network_that_takes_no_image_says_so():
    model = VGG((1,) * 14, num_classes=2, width=1)
    with pytest.raises(ValueError, match=r"does not fit in an image .*; VGG takes none of up to 4096×4096"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))


class Own(nn.Module):
    """All layers whose output depends on the size of images."""

    @nn.compact
    def __call__(self, x):
        x = max_pool(Conv(8, 5, 2, "same")(x), 3, 2, "same")
        x = avg_pool(Conv(8, 3, groups=4)(x), 3, 1, 1)
        return jnp.concatenate([adaptive_avg_pool(x, 3).reshape(x.shape[0], -1), global_avg_pool(x)], -1)


@pytest.mark.parametrize(
    "arch",
    ["own", "resnet20", "resnet18", "same", "densenet_bc_40_12", pytest.param("vgg11_bn", marks=pytest.mark.slow)],
)
def test_networks_are_exported_for_images_of_any_size(arch):
    options = SMALL.get(arch, {}) | ({"padding": "same", "width": 2} if arch == "same" else {})
    model = Own() if arch == "own" else build_model("resnet18" if arch == "same" else arch, num_classes=7, **options)
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    variables = model.init(jax.random.key(0), images[:1])

    def logits(x):
        return model.apply(variables, x)

    batch, height, width = jax.export.symbolic_shape("b, h, w", constraints=["h >= 32", "w >= 32"])
    exported = jax.export.export(jax.jit(logits))(jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32))
    for x in (images, images[:1, :33, :47]):
        np.testing.assert_allclose(exported.call(x), jax.jit(logits)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", ["densenet_bc_40_12", "vgg11_bn", "resnext50_32x4d", pytest.param("densenet121", marks=pytest.mark.slow)]
)
def test_sizes_may_be_free(arch):
    """Without any constraint, and so with sizes of which JAX cannot tell that they are not negative."""
    model = build_model(arch, num_classes=7, **SMALL.get(arch, {}))
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    shape = jax.export.symbolic_shape("b, h, w, 3")
    exported = jax.export.export(jax.jit(model.apply))(variables, jax.ShapeDtypeStruct(shape, jnp.float32))
    for x in (images, images[:1, :33, :47]):
        np.testing.assert_allclose(
            exported.call(variables, x), jax.jit(model.apply)(variables, x), rtol=1e-4, atol=1e-5
        )


# 10⁹ for one image: torchvision 0.29 gives these with its weights, as meta["_ops"].
PUBLISHED = {
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "resnext50_32x4d": 4.23,
    "resnext101_32x8d": 16.414,
    "wide_resnet50_2": 11.398,
    "wide_resnet101_2": 22.753,
    "densenet121": 2.834,
    "densenet161": 7.728,
    "densenet169": 3.36,
    "densenet201": 4.291,
    "vgg11": 7.609,
    "vgg13": 11.308,
    "vgg16": 15.47,
    "vgg19": 19.632,
    "vgg11_bn": 7.609,
    "vgg13_bn": 11.308,
    "vgg16_bn": 15.47,
    "vgg19_bn": 19.632,
}


@pytest.mark.parametrize("arch", PUBLISHED)
def test_multiply_adds_are_the_published_ones(arch):
    assert count_multiply_adds(build_model(arch)) / 1e9 == pytest.approx(PUBLISHED[arch], rel=5e-3)


def by_layers(model, size):
    """The multiply-adds by each layer's definition: pixels out by kernel."""
    total = 0

    def add(call, arguments, keywords, context):
        nonlocal total
        y = call(*arguments, **keywords)
        layer, x = context.module, arguments[0] if arguments else None
        if context.method_name == "__call__" and isinstance(layer, Conv):
            total += y[0].size * layer.kernel_size**2 * x.shape[-1] // layer.groups
        elif context.method_name == "__call__" and isinstance(layer, Linear | nn.Dense):
            total += x.shape[-1] * y.shape[-1]
        return y

    def run(x):
        with nn.intercept_methods(add):
            return model.init(jax.random.key(0), x, train=False)

    jax.eval_shape(run, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    return total


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_multiply_adds_are_those_of_the_mathematics_whatever_formula_runs(arch):
    model = build_model(arch)
    if getattr(model, "scan", False):
        model = model.clone(scan=False, stage_sizes=(2, 2, 2))
    size = model.published_size
    expected = by_layers(model, size)
    assert count_multiply_adds(model, (size, size, 3)) == expected
    if arch in ("resnext50_32x4d", "densenet_bc_40_12", "vgg11"):
        assert table(model, (size, size, 3))[()].multiply_adds == expected
