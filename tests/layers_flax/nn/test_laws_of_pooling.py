"""Pools and means equal the textbook's, with all derivatives, over shapes that nobody picked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings, strategies as st
from laws import assert_close, derivatives

from layers_flax import adaptive_avg_pool, avg_pool, global_avg_pool, in_chunks, max_pool
from layers_flax.conv import chunks
from layers_flax.conv.conv import both_sides
from layers_flax.conv.im2col import steps_of
from layers_flax.nn.means import mean_by_dot

LAWS = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
images = st.tuples(st.sampled_from([1, 2, 3, 8, 0]), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))


@st.composite
def pools(draw, paddings=(0, 1, 2)):
    """A shape of images and (window, stride, padding), of at least one window."""
    shape, window, stride = draw(images), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    padding = draw(st.sampled_from([p for p in paddings if p == "same" or p <= window // 2]))
    assume(all(steps_of(n, window, stride, both_sides(padding, n, window, stride)) >= 1 for n in shape[1:3]))
    return shape, (window, stride, padding)


def standard_normal(shape, dtype=None):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


def windows(x, window, stride, padding, fill):
    """(batch, out_h, out_w, window², channels): the pixels of each window, row by row, `fill` where padding is."""
    pads = [both_sides(padding, n, window, stride) for n in x.shape[1:3]]
    rows, columns = (
        np.arange(steps_of(n, window, stride, p)) * stride for n, p in zip(x.shape[1:3], pads, strict=True)
    )
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    places = rows[:, None] + np.arange(window), columns[:, None] + np.arange(window)
    x = x[:, places[0][:, None, :, None], places[1][None, :, None, :]]
    return x.reshape(*x.shape[:3], window**2, x.shape[-1])


def textbook_max(x, window, stride, padding):
    x = windows(x, window, stride, padding, -jnp.inf)
    return jnp.take_along_axis(x, jnp.argmax(x, 3, keepdims=True), 3)[:, :, :, 0]  # of equal values the first


def textbook_mean(x, window, stride, padding):
    real = windows(jnp.ones_like(x), window, stride, padding, 0)
    return windows(x, window, stride, padding, 0).sum(3) / real.sum(3)


@settings(LAWS, max_examples=12)
@given(pools(paddings=(0, 1, 2, "same")), st.booleans())
def test_max_pool_and_its_derivatives(x64, case, ties):
    shape, options = case
    x = standard_normal(shape)
    x = jnp.round(x) if ties else x
    ours, theirs = (lambda x, f=f: f(x, *options) for f in (max_pool, textbook_max))
    assert_close(derivatives(ours, (x,)), derivatives(theirs, (x,)), 1e-12)


@settings(LAWS, max_examples=8)
@given(pools())
@example(((2, 5, 7, 2), (2, 2, 0)))  # windows side by side, and pixels behind the last
def test_avg_pool_and_its_derivatives(x64, case):
    shape, options = case
    ours, theirs = (lambda x, f=f: f(x, *options) for f in (avg_pool, textbook_mean))
    assert_close(derivatives(ours, (standard_normal(shape),)), derivatives(theirs, (standard_normal(shape),)), 1e-12)


@settings(LAWS, max_examples=8)
@given(pools(), st.sampled_from([jnp.float32, jnp.bfloat16]))
@example(((2, 5, 7, 2), (2, 2, 0)), jnp.bfloat16)
def test_pools_in_narrow_types(x64, case, dtype):
    """A maximum rounds nothing.

    A mean takes the sum along the width times a rounded 1/n, then the same along the height: no more than
    2 (window + 1) roundings of |x|, by 2⁻²⁴ or 2⁻⁸, forward and back. A maximum's gradient is a sum over window²
    windows or fewer, first along one axis.
    """
    shape, (window, stride, padding) = case
    x = standard_normal(shape, dtype)
    cotangent = standard_normal(jax.eval_shape(lambda x: max_pool(x, window, stride, padding), x).shape, dtype)
    unit = 2.0**-24 if dtype == jnp.float32 else 2.0**-8
    share = 2 * (window + 1) * unit / (1 - 2 * (window + 1) * unit)

    def value_and_gradient(function, x, cotangent):
        y, transpose = jax.vjp(lambda x: function(x, window, stride, padding), x)
        return y, transpose(cotangent)[0]

    @jax.jit
    def everything(x, cotangent):
        wide = x.astype(jnp.float64), cotangent.astype(jnp.float64)
        return [
            (
                value_and_gradient(ours, x, cotangent),
                value_and_gradient(theirs, *wide),
                value_and_gradient(theirs, *map(jnp.abs, wide)),
            )
            for ours, theirs in ((max_pool, textbook_max), (avg_pool, textbook_mean))
        ]

    largest, mean = everything(x, cotangent)
    np.testing.assert_array_equal(largest[0][0].astype(jnp.float64), largest[1][0])
    for ours, theirs, scales in zip(*mean, strict=True):
        assert ours.dtype == dtype
        assert (np.abs(ours.astype(jnp.float64) - theirs) <= share * scales).all()
    error = np.abs(largest[0][1].astype(jnp.float64) - largest[1][1])
    assert (error <= share * window**2 * float(jnp.abs(cotangent).max(initial=0))).all()


@settings(LAWS, max_examples=8)
@given(images, st.integers(1, 5))
def test_adaptive_avg_pool_and_its_derivatives(x64, shape, size):
    def textbook(x):
        rows, columns = ([slice(i * n // size, -(-(i + 1) * n // size)) for i in range(size)] for n in x.shape[1:3])
        return jnp.stack([jnp.stack([x[:, row, column].mean((1, 2)) for column in columns], 1) for row in rows], 1)

    x = standard_normal(shape)
    assert_close(derivatives(lambda x: adaptive_avg_pool(x, size), (x,)), derivatives(textbook, (x,)), 1e-12)


@settings(LAWS, max_examples=8)
@given(images, st.booleans())
def test_global_avg_pool_and_its_derivatives(x64, shape, fused):
    x = standard_normal(shape)
    ours = derivatives(lambda x: global_avg_pool(x, fused), (x,))
    assert_close(ours, derivatives(lambda x: x.sum((1, 2)) / (shape[1] * shape[2]), (x,)), 1e-12)


@settings(LAWS, max_examples=8)
@example((2, 1, 3), jnp.float64)
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 81), st.integers(1, 3)),
    st.sampled_from([jnp.float64, jnp.float32, jnp.bfloat16]),
)
def test_mean_by_dot(x64, shape, dtype):
    """n values: off by (n + 1) u of the mean of |x|; float32 for narrower x, whose gradient has its type."""
    x = standard_normal(shape, dtype)
    wide = x.astype(jnp.float64)
    if dtype == jnp.float64:
        assert_close(derivatives(mean_by_dot, (x,)), derivatives(lambda x: x.mean(1), (x,)), 1e-12)
    y, transpose = jax.vjp(mean_by_dot, x)
    assert y.dtype == jnp.promote_types(dtype, jnp.float32)
    unit = float(jnp.finfo(y.dtype).eps) / 2
    assert (np.abs(y - wide.mean(1)) <= (shape[1] + 1) * unit * np.abs(wide).mean(1)).all()
    (gradient,) = transpose(jnp.ones_like(y))
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient.astype(jnp.float64), 1 / shape[1], rtol=float(jnp.finfo(dtype).eps))


@settings(LAWS, max_examples=10)
@given(st.sampled_from([2, 3, 4, 6, 7, 8]), st.integers(1, 9), st.integers(1, 9), st.integers(1, 200))
def test_what_runs_in_pieces_is_the_same_function(x64, batch, height, width, pixels):
    def network(variables, images):
        return jnp.tanh(images.mean((1, 2)) @ variables["kernel"])

    def ours(variables, images):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "PIXELS_AT_ONCE", pixels)
            logits = in_chunks(network, variables, images)
        return network(variables, images) if logits is None else logits

    arguments = {"kernel": standard_normal((3, 4))}, standard_normal((batch, height, width, 3))
    assert_close(derivatives(ours, arguments), derivatives(network, arguments), 1e-12)
