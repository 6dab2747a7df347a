"""BatchNorm equals the textbook's formula, with all derivatives, over shapes that nobody picked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from laws import assert_close, derivatives

from layers_flax import BatchNorm, batch_moments

LAWS = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Three values a channel or more: two, once normalised, no longer depend on them, and what is left is rounding.
maps = st.tuples(st.sampled_from([3, 4, 8]), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))


def draw(shape, mean=0.0, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    x, scale, bias = (rng.standard_normal(s) for s in (shape, shape[-1:], shape[-1:]))
    return jnp.asarray(mean + x, dtype), jnp.asarray(1 + scale / 4, dtype), jnp.asarray(bias, dtype)


def textbook_moments(x):
    axes = tuple(range(x.ndim - 1))
    mean = x.sum(axes) / (x.size // x.shape[-1])
    return mean, jnp.square(x - mean).sum(axes) / (x.size // x.shape[-1])


def textbook(x, scale, bias):
    mean, variance = textbook_moments(x)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias


def normalised(x, scale, bias, axis_name=None):
    stats = {"mean": jnp.zeros_like(scale), "var": jnp.ones_like(scale)}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
    return BatchNorm(axis_name=axis_name).apply(variables, x, train=True)


@settings(LAWS, max_examples=8)
@example((8, 16, 16, 3))  # enough values for a sum in place of a dot
@given(maps)
def test_moments_and_their_derivatives(x64, shape):
    x = draw(shape)[0]
    ours, theirs = ((lambda x, f=f: jnp.stack([*f(x)])) for f in (batch_moments, textbook_moments))
    assert_close(derivatives(ours, (x,)), derivatives(theirs, (x,)), 1e-12)


@settings(LAWS, max_examples=8)
@given(maps)
def test_layer_and_its_derivatives(x64, shape):
    arguments = draw(shape)
    assert_close(derivatives(normalised, arguments), derivatives(textbook, arguments), 1e-12)


@settings(LAWS, max_examples=6)
@given(maps, st.sampled_from([1, 2, 4]))
def test_layer_over_a_mapped_axis_and_its_derivatives(x64, shape, members):
    """The members' batches are one: their outputs together are those of the whole, and so are all derivatives."""
    arguments = draw((members * shape[0], *shape[1:]))

    def over_members(x, scale, bias):
        x = x.reshape(members, -1, *x.shape[1:])
        y = jax.vmap(lambda x: normalised(x, scale, bias, "data"), axis_name="data")(x)
        return y.reshape(-1, *y.shape[2:])

    assert_close(derivatives(over_members, arguments), derivatives(textbook, arguments), 1e-12)


@settings(LAWS, max_examples=12)
@example((8, 16, 16, 4), 1e4, jnp.float32)
@given(maps, st.sampled_from([0.0, 3.0, 1e4]), st.sampled_from([jnp.float32, jnp.bfloat16]))
def test_statistics_in_narrow_types(x64, shape, mean, dtype):
    """Of n values x and their first c: means of n numbers, off by (n + 2) u of their size, (n + 4) u for squares.

    In float32 or from bfloat16, u = 2⁻²⁴. With S = E[(x - c)²] ≥ E[|x - c|]², E[(x - c)²] is off by (n + 4) u S, the
    square of E[x - c] by 2 (n + 2) u S + u S, and their difference by one rounding more: 3 (n + 4) u S in all. The
    mean is off by (n + 2) u √S, and one rounding when c is added.
    """
    x = draw(shape, mean, dtype)[0]
    ours = jax.jit(batch_moments)(x)
    assert {leaf.dtype for leaf in ours} == {jnp.dtype(jnp.float32)}
    wide = x.astype(jnp.float64)
    theirs = textbook_moments(wide)
    n, unit = x.size // x.shape[-1], 2.0**-24
    spread = jnp.square(wide - wide[0, 0, 0]).mean((0, 1, 2))
    assert (np.abs(ours.mean - theirs[0]) <= unit * ((n + 2) * jnp.sqrt(spread) + np.abs(theirs[0]))).all()
    assert (np.abs(ours.variance - theirs[1]) <= 3 * (n + 4) * unit * spread).all()


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_layer_in_float32_and_its_gradient_feel_the_mean_as_the_input_does(x64, mean):
    """x · a + (b - m · a) rounds numbers as large as x · a: outputs are off by a few u |x|, as x itself is when made.

    So of deviations of 1 a mean of 1e4 leaves 1e4 · 2⁻²⁴ = 6e-4. Here 4 roundings of x · a or m · a are allowed, and
    the moments' own error as above, which the law of large numbers keeps near √n in place of n. The gradient of x is
    a · (c - E[c] - x̂ E[c x̂]), where x̂ is made by subtracting such numbers: as much, relative to the largest.
    """
    arguments = draw((8, 16, 16, 4), mean, jnp.float32)
    wide = tuple(a.astype(jnp.float64) for a in arguments)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(arguments[0].shape), jnp.float32)
    y, transpose = jax.vjp(normalised, *arguments)
    expected, exact_transpose = jax.vjp(textbook, *wide)
    n, unit = 8 * 16 * 16, 2.0**-24
    allowed = 4 * unit * (float(jnp.abs(wide[0]).max()) + 3 * n**0.5)
    assert_close(y, expected, allowed)
    assert_close(transpose(cotangent)[0], exact_transpose(cotangent.astype(jnp.float64))[0], allowed)
