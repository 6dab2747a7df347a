"""Convolutions equal `lax.conv_general_dilated` in all they are used for, over shapes that nobody picked."""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings, strategies as st
from laws import assert_close, derivatives, mapped

from layers_flax import Conv, conv2d, inference_conv2d
from layers_flax.conv.conv import both_sides
from layers_flax.conv.im2col import steps_of, stock_conv

# Each example compiles programs of its own. The fixtures hold for all examples of a test.
LAWS = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WIDTHS = [(1, 2), (3, 5), (4, 4), (8, 2), (12, 4)]  # channels in and out; the last two to a third or fewer


@pytest.fixture
def small_blocks(monkeypatch):
    """Filter gradients a few images at a time, or one by one, or all of a small batch."""
    monkeypatch.setattr("layers_flax.conv.filter_gradients.BLOCK", 250)
    jax.clear_caches()  # of rules of differentiation that saw other blocks
    yield
    jax.clear_caches()


@st.composite
def convolutions(draw, kernels=(1, 3, 4, 5, 7), widths=tuple(WIDTHS), groups=(1, 1, 2, 4)):
    """Shapes of images and kernel, and the options of `conv2d`, of at least one output pixel."""
    size, stride, count = draw(st.sampled_from(kernels)), draw(st.integers(1, 3)), draw(st.sampled_from(groups))
    padding = draw(st.sampled_from([None, None, 0, 1, 2, "same"]))
    images = [draw(st.integers(1, 9)) for _ in range(2)]
    assume(all(steps_of(n, size, stride, both_sides(padding, n, size, stride)) >= 1 for n in images))
    inputs, outputs = draw(st.sampled_from(widths))
    batch = draw(st.sampled_from([1, 2, 3, 8, 0]))
    shapes = (batch, *images, count * inputs), (size, size, inputs, count * outputs)
    return *shapes, dict(stride=stride, padding=padding, groups=count)


def convolution(shape, kernel, *, stride=1, padding=None, groups=1):
    return shape, kernel, dict(stride=stride, padding=padding, groups=groups)


def stock(x, kernel, *, stride, padding, groups):
    pads = tuple(both_sides(padding, x.shape[i + 1], kernel.shape[i], stride) for i in range(2))
    return stock_conv(x, kernel, stride, pads, groups)


def standard_normal(*shapes, dtype=None):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)


@settings(LAWS, max_examples=16)
@example(convolution((8, 5, 4, 3), (3, 3, 3, 5)))  # of four images at a time
@example(convolution((8, 9, 7, 8), (3, 3, 8, 2)))  # dots, then shifts
@example(convolution((3, 1, 1, 3), (1, 1, 3, 5), stride=3, padding=2))  # nothing but padding is seen
@example(convolution((0, 6, 5, 3), (3, 3, 3, 5), stride=2))
@given(convolutions())
def test_convolution_and_its_derivatives(x64, small_blocks, case):
    *shapes, options = case
    arguments = standard_normal(*shapes)
    ours, theirs = partial(conv2d, **options), partial(stock, **options)
    assert_close(derivatives(ours, arguments), derivatives(theirs, arguments), 1e-12)


@settings(LAWS, max_examples=8)
@given(convolutions())
def test_convolution_mapped_over_images_kernels_or_both(x64, small_blocks, case):
    *shapes, options = case
    arguments = standard_normal(*shapes)
    ours, theirs = partial(conv2d, **options), partial(stock, **options)
    assert_close(mapped(ours, arguments), mapped(theirs, arguments), 1e-12)


@settings(LAWS, max_examples=5)
@given(convolutions())
def test_layer_with_a_bias(x64, small_blocks, case):
    shape, kernel_shape, options = case
    *arguments, bias = standard_normal(shape, kernel_shape, kernel_shape[-1:])
    layer = Conv(kernel_shape[3], kernel_shape[0], use_bias=True, **options)

    def ours(x, kernel, bias):
        return layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    def theirs(x, kernel, bias):
        return stock(x, kernel, **options) + bias

    assert_close(derivatives(ours, (*arguments, bias)), derivatives(theirs, (*arguments, bias)), 1e-12)


@settings(LAWS, max_examples=8)
@example(convolution((1, 28, 2, 17), (3, 3, 17, 2)))  # one row too many
@given(convolutions(kernels=(3, 5, 7, 3, 4), widths=((3, 5), (4, 130), (8, 64)), groups=(1, 1, 1, 2)))
def test_convolution_of_inference_and_its_derivatives(x64, case):
    *shapes, options = case
    arguments = standard_normal(*shapes)
    ours, theirs = partial(inference_conv2d, **options), partial(stock, **options)
    assert_close(derivatives(ours, arguments), derivatives(theirs, arguments), 1e-12)


def linear(function, arguments, cotangent, tangents):
    """Value, gradients of c·y, and the jvp, two convolutions added."""

    def run(*args):
        value, transpose = jax.vjp(function, *args)
        jvp = jax.jvp(function, args, tangents)[1]
        return value, *transpose(cotangent.astype(value.dtype)), jvp

    return jax.jit(run)(*arguments)


@settings(LAWS, max_examples=8)
@given(convolutions(), st.sampled_from([jnp.float32, jnp.bfloat16]), st.sampled_from([conv2d, inference_conv2d]))
def test_convolution_in_narrow_types(x64, small_blocks, case, dtype, function):
    """A sum of n products is off by n·u·Σ|products| at most, in whatever order; the bound is that of |x| and |k|.

    u is 2⁻²⁴ in float32. In bfloat16 sums are float32, and what comes out is rounded once, by 2⁻⁸; only the maps of a
    gradient that lie over each other, at most one for each tap, are added in bfloat16.
    """
    *shapes, options = case
    arguments, tangents = standard_normal(*shapes, dtype=dtype), standard_normal(*shapes[::-1], dtype=dtype)[::-1]
    function, exact = partial(function, **options), partial(stock, **options)
    (cotangent,) = standard_normal(jax.eval_shape(exact, *arguments).shape, dtype=dtype)
    everything = (arguments, cotangent, tangents)
    ours = linear(function, *everything)
    assert all(y.dtype == dtype for y in ours)
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), everything)
    theirs = linear(exact, *wide)
    scales = linear(exact, *jax.tree.map(jnp.abs, wide))
    height, width, inputs, outputs = shapes[1]
    taps = height * width
    # Products in a sum, and maps of bfloat16 in it: of an output, of a pixel's and a weight's gradient, of a tangent.
    products = (taps * inputs, taps * outputs // options["groups"], prod(cotangent.shape[:3]), 2 * taps * inputs)
    maps = (1, taps, 1, 3)
    for a, b, scale, n, count in zip(ours, theirs, scales, products, maps, strict=True):
        unit = n * 2.0**-24 + (count * 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-24)
        error = np.abs(np.asarray(a, np.float64) - b)
        assert (error <= unit / (1 - unit) * np.asarray(scale)).all()
