"""A 1×1 convolution and the BatchNorm behind or before it, as one, give what they give one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from densenet_flax import DenseBlock
from layers_flax import BatchNorm, Conv, ScaleShift, conv_and_norm, norm_relu_conv, target_backend
from resnet_flax import BottleneckBlock


class Pair:
    """Two layers with their variables and (batch, height, width, inputs) images."""

    def __init__(self, order, inputs=3, features=12, dtype=None, axis_name=None, of_norm=None, **options):
        rng = np.random.default_rng(0)
        self.order = order
        if order == "norm, relu, conv":
            inputs, features = features, inputs
        normed = features if order == "conv, norm" else inputs
        kernel = rng.standard_normal((options.get("kernel_size", 1),) * 2 + (inputs, features))
        scale, bias, mean = rng.standard_normal((3, normed))
        self.conv = Conv(features, **{"kernel_size": 1, **options}, dtype=dtype)
        self.norm = BatchNorm(dtype=dtype, axis_name=axis_name, **(of_norm or {}))
        self.variables = jax.tree.map(jnp.asarray, {"kernel": kernel, "scale": scale, "bias": bias, "mean": mean})
        self.x = jnp.asarray(rng.standard_normal((4, 3, 5, inputs)) + 1)
        self.weights = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3, 5, features)))

    def __call__(self, variables, x, train=True):
        """The output, and the new running averages."""
        state = {"params": {key: variables[key] for key in ("scale", "bias")}}
        state["batch_stats"] = {"mean": variables["mean"], "var": jnp.ones_like(variables["mean"])}
        norm = self.norm.bind(state, mutable=["batch_stats"])
        conv = self.conv.bind({"params": {"kernel": variables["kernel"]}})
        y = conv_and_norm(conv, norm, x, train) if self.order == "conv, norm" else norm_relu_conv(norm, conv, x, train)
        return y, dict(norm.variables["batch_stats"])

    def loss(self, variables, x, weights=None):
        weights = self.weights if weights is None else weights
        return (self(variables, x)[0] ** 2 * weights).sum()


orders = pytest.mark.parametrize("order", ["conv, norm", "norm, relu, conv"])


def on(backend, function, *args):
    with target_backend(backend):
        return jax.jit(lambda *args: function(*args))(*args)


def assert_close(found, expected, digits=1e-11):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=digits, atol=digits * max(1, np.abs(theirs).max()))


DERIVATIVES = {
    "values": lambda loss: loss,
    "gradient": lambda loss: jax.grad(loss, (0, 1)),
    "tangent": lambda loss: lambda *at: jax.jvp(loss, at, jax.tree.map(jnp.cos, at))[1],
    "gradient along a direction": lambda loss: (
        lambda *at: jax.jvp(jax.grad(loss, (0, 1)), at, jax.tree.map(jnp.cos, at))
    ),
    "gradient of a gradient": lambda loss: jax.grad(
        lambda *at: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(loss, (0, 1))(*at))), (0, 1)
    ),
}


@orders
@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_are_those_of_the_two_layers(name, order, x64):
    pair = Pair(order)
    function = DERIVATIVES[name](pair.loss)
    found, expected = (on(backend, function, pair.variables, pair.x) for backend in ("tpu", "cpu"))
    assert_close(found, expected, 1e-9)


@orders
def test_running_averages_are_those_of_the_two_layers(order, x64):
    pair = Pair(order)
    found, expected = (on(backend, pair, pair.variables, pair.x) for backend in ("tpu", "cpu"))
    assert_close(found, expected)


@orders
def test_networks_side_by_side(order, x64):
    """`vmap` over networks, as the theory does."""
    pair = Pair(order)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, leaf + 1]), pair.variables)
    function = jax.vmap(jax.grad(pair.loss, (0, 1)), (0, None))
    assert_close(on("tpu", function, many, pair.x), on("cpu", function, many, pair.x), 1e-9)


@orders
def test_members_of_an_axis_form_one_batch(order, x64):
    """The members' gradients add up to that of the whole batch on one device."""
    pair, mapped = Pair(order), Pair(order, axis_name="data")

    def shared(variables, x, weights):
        params, images = jax.grad(mapped.loss, (0, 1))(variables, x, weights)
        return jax.tree.map(lambda leaf: jax.lax.psum(leaf, "data"), params), images

    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), (pair.x, pair.weights))
    params, images = on("tpu", jax.vmap(shared, (None, 0, 0), axis_name="data"), pair.variables, *halves)
    expected = on("cpu", jax.grad(pair.loss, (0, 1)), pair.variables, pair.x)
    assert_close((jax.tree.map(lambda leaf: leaf[0], params), images.reshape(pair.x.shape)), expected, 1e-9)


def error(found, exact):
    return max(
        np.linalg.norm(np.asarray(ours, float) - theirs) / np.linalg.norm(theirs)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
        if np.linalg.norm(theirs)
    )


def cancellation(pair):
    """How many times as large as the kernel's gradient are the three terms that `conv_and_norm` adds up to it."""
    kernel, scale, bias = (np.asarray(pair.variables[name]) for name in ("kernel", "scale", "bias"))
    x, weights = (np.asarray(values).reshape(-1, values.shape[-1]) for values in (pair.x, pair.weights))
    y = x @ kernel[0, 0]
    deviation = np.sqrt(y.var(0) + pair.norm.epsilon)
    normalised = (y - y.mean(0)) / deviation
    cotangent = 2 * (normalised * scale + bias) * weights
    along = (cotangent * normalised).mean(0) * scale / deviation**2
    terms = [
        x.T @ (cotangent * scale / deviation),
        -(x.T @ x @ kernel[0, 0]) * along,
        -x.sum(0)[:, None] * (cotangent.mean(0) * scale / deviation - along * y.mean(0)),
    ]
    return sum(map(np.linalg.norm, terms)) / np.linalg.norm(sum(terms))


@orders
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rounding_is_that_of_the_dtype(dtype, order, x64):
    """A cotangent passes at most five roundings, each of half an ulp of terms that may be larger than their sum."""
    exact = Pair(order, 16, 64)
    variables, x = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(float), (exact.variables, exact.x))
    expected = on("cpu", jax.grad(exact.loss, (0, 1)), variables, x)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables)
    narrow = Pair(order, 16, 64, dtype=dtype)
    narrow.weights = exact.weights.astype(jnp.float32)
    found = on("tpu", jax.grad(narrow.loss, (0, 1)), params, x.astype(dtype))
    times = cancellation(exact) if order == "conv, norm" else 2  # of the parts of a batch's mean and its deviations
    assert error(found, expected) < 5 * times * float(jnp.finfo(dtype).eps) / 2


ALONE = {
    "evaluation": (dict(), False),
    "a larger kernel": (dict(kernel_size=3), True),
    "a stride": (dict(stride=2), True),
    "padding": (dict(padding=1), True),
    "another formula": (dict(convolve=lambda x, kernel, **_: x @ kernel[0, 0]), True),
    "frozen": (dict(of_norm=dict(frozen=True)), True),
    "another type": (dict(dtype=jnp.bfloat16), True),
}


def is_one(pair, train=True, backend="tpu"):
    with target_backend(backend):
        text = str(jax.make_jaxpr(lambda x: pair(pair.variables, x, train)[0])(pair.x))
    return "_conv_and_norm" in text or "_norm_relu_conv" in text


@orders
@pytest.mark.parametrize("name", ALONE)
def test_other_layers_run_one_by_one(name, order):
    options, train = ALONE[name]
    assert not is_one(Pair(order, **options), train)


@pytest.mark.parametrize(("order", "inputs", "features"), [("conv, norm", 3, 11), ("norm, relu, conv", 4, 3)])
def test_other_numbers_of_channels_run_one_by_one(order, inputs, features):
    assert not is_one(Pair(order, inputs, features))


@orders
@pytest.mark.parametrize(("backend", "one"), [("tpu", True), ("gpu", False), ("cpu", False)])
def test_only_tpus_compute_them_as_one(backend, one, order):
    assert is_one(Pair(order), backend=backend) == one


@orders
def test_who_watches_layers_sees_them_one_by_one(order):
    """`capture_intermediates` would find no output of the convolution."""
    block = BottleneckBlock(4) if order == "conv, norm" else DenseBlock(size=1, growth_rate=2)
    x = jnp.ones((2, 8, 8, 16))
    variables = block.init(jax.random.key(0), x)
    with target_backend("tpu"):
        _, seen = block.apply(variables, x, True, mutable=["batch_stats", "intermediates"], capture_intermediates=True)
    names = {key for path, _ in jax.tree_util.tree_leaves_with_path(seen["intermediates"]) for key in map(str, path)}
    assert {"['conv3']", "['bn3']"} <= names if order == "conv, norm" else {"['conv1']", "['norm1']"} <= names


def test_another_norm_runs_behind_the_convolution():
    pair = Pair("conv, norm")
    shift = ScaleShift().bind({"params": {name: pair.variables[name] for name in ("scale", "bias")}})
    with target_backend("tpu"):
        y = conv_and_norm(pair.conv.bind({"params": {"kernel": pair.variables["kernel"]}}), shift, pair.x, True)
    expected = (pair.x @ pair.variables["kernel"][0, 0]) * pair.variables["scale"] + pair.variables["bias"]
    np.testing.assert_allclose(y, expected, 1e-5, 1e-5)
