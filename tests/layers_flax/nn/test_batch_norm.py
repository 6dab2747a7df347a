import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close, derivatives

from layers_flax import BatchNorm, batch_moments


def textbook(x, scale, bias, epsilon=1e-5):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = ((x - mean) ** 2).mean(axes)
    return (x - mean) / jnp.sqrt(variance + epsilon) * scale + bias


def draw(shape=(4, 3, 5, 6), dtype=jnp.float64):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(3 + rng.standard_normal(s), dtype) for s in (shape, shape[-1:], shape[-1:]))


def variables_of(scale, bias, mean=None, var=None):
    zeros, ones = jnp.zeros_like(scale), jnp.ones_like(scale)
    stats = {"mean": zeros if mean is None else mean, "var": ones if var is None else var}
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (1, 7, 3, 2), (9, 4)])
def test_derivatives_equal_the_textbooks(x64, shape):
    arguments = draw(shape)

    def run(x, scale, bias):
        return BatchNorm().apply(variables_of(scale, bias), x, train=True)

    assert_close(derivatives(run, arguments), derivatives(textbook, arguments), 1e-12)


def test_evaluation_uses_the_running_statistics_and_lets_gradients_through(x64):
    x, scale, bias = draw()
    mean, var = jnp.arange(6.0), 1 + jnp.arange(6.0)

    def run(x, scale, bias):
        return BatchNorm().apply(variables_of(scale, bias, mean, var), x)

    def expected(x, scale, bias):
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias

    assert_close(derivatives(run, (x, scale, bias)), derivatives(expected, (x, scale, bias)), 1e-13)


@pytest.mark.parametrize(("kind", "correction"), [("biased", 0), ("unbiased", 1)])
def test_running_averages_move_by_one_minus_momentum(x64, kind, correction):
    x, scale, bias = draw()
    old = jnp.full(6, 5.0)
    layer = BatchNorm(momentum=0.9, running_variance=kind)
    _, updates = layer.apply(variables_of(scale, bias, old, old), x, train=True, mutable=["batch_stats"])
    axes = (0, 1, 2)
    expected = {"mean": 0.9 * old + 0.1 * x.mean(axes), "var": 0.9 * old + 0.1 * x.var(axes, ddof=correction)}
    assert_close(updates["batch_stats"], expected, 1e-14)


def test_what_is_mutable_is_the_callers_choice():
    x, scale, bias = draw(dtype=jnp.float32)
    variables = variables_of(scale, bias)
    frozen = BatchNorm().apply(variables, x, train=True)
    moved, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(frozen, moved)
    assert not np.array_equal(updates["batch_stats"]["mean"], variables["batch_stats"]["mean"])
    _, untouched = BatchNorm().apply(variables, x, train=False, mutable=["batch_stats"])
    assert_close(untouched["batch_stats"], variables["batch_stats"], 0)


def test_statistics_do_not_cancel_when_the_mean_is_large():
    """Mean 1e4, variance 1: E[x²] - E[x]² in float32 is off by more than 1; here by the rounding of the values."""
    values = 1e4 + np.random.default_rng(0).standard_normal((8, 16, 16, 4))
    x = values.astype(np.float32)
    moments = batch_moments(jnp.asarray(x))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean((0, 1, 2)), rtol=2 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(moments.variance, exact.var((0, 1, 2)), rtol=1e-4)
    naive = np.square(x).mean((0, 1, 2), dtype=np.float32) - np.square(x.mean((0, 1, 2), dtype=np.float32))
    assert np.abs(naive - exact.var((0, 1, 2))).max() > 0.5


@pytest.mark.parametrize("kind", ["biased", "unbiased"])
def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch(x64, kind):
    x, scale, bias = draw((8, 3, 5, 6))
    variables = variables_of(scale, bias)

    def whole(x):
        return BatchNorm(running_variance=kind).apply(variables, x, train=True, mutable=["batch_stats"])

    def member(x):
        layer = BatchNorm(running_variance=kind, axis_name="data")
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    y, updates = jax.vmap(member, axis_name="data")(x.reshape(4, 2, 3, 5, 6))
    expected, expected_updates = whole(x)
    assert_close(y.reshape(x.shape), expected, 1e-13)
    for i in range(4):
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], updates), expected_updates, 1e-14)


def test_gradient_over_a_mapped_axis_is_that_of_the_whole_batch(x64):
    x, scale, bias = draw((8, 3, 5, 6))
    weights = jnp.asarray(np.random.default_rng(3).standard_normal(x.shape))
    variables = variables_of(scale, bias)

    def loss(x, weights, axis_name):
        return (weights * BatchNorm(axis_name=axis_name).apply(variables, x, train=True)).sum()

    # Each member differentiates its own loss: what the others' losses owe it comes back through the statistics.
    split = jax.vmap(jax.grad(lambda x, w: loss(x, w, "data")), axis_name="data")
    ours = split(x.reshape(4, 2, 3, 5, 6), weights.reshape(4, 2, 3, 5, 6)).reshape(x.shape)
    assert_close(ours, jax.grad(loss)(x, weights, None), 1e-12)


def test_variables_can_be_made_in_train_mode_outside_the_mapped_axis():
    variables = BatchNorm(axis_name="data").init(jax.random.key(0), jnp.ones((2, 3)), train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_statistics_stay_float32_under_a_narrow_compute_type(dtype):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 16, 16, 3)), dtype)
    layer = BatchNorm(dtype=dtype)
    variables = layer.init(jax.random.key(0), x)
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(
        updates["batch_stats"]["var"], 0.9 + 0.1 * np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-6
    )


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="unknown running_variance 'unbiase'; did you mean 'unbiased'"):
        BatchNorm(running_variance="unbiase").init(jax.random.key(0), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="needs at least 2 values a channel; given 1"):
        layer = BatchNorm(running_variance="unbiased")
        layer.apply(layer.init(jax.random.key(0), jnp.ones((1, 3))), jnp.ones((1, 3)), train=True, mutable=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_the_error_about_a_known_mean_is_that_of_the_formula_and_never_above_flax_s(share, mean, dtype):
    """Squares of numbers of size d round by ε (d² + 1), and a mean of many hides no more than √n of it."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 16, 16, 8)) + mean, dtype)
    exact = np.asarray(x, np.float64).var((0, 1, 2))
    about = jnp.full(8, share * mean, jnp.float32)
    ours = np.abs(np.asarray(jax.jit(lambda x: batch_moments(x, about=about).variance)(x), np.float64) - exact)
    wide = x.astype(jnp.float32)
    flax = jnp.maximum(jnp.square(wide).mean((0, 1, 2)) - jnp.square(wide.mean((0, 1, 2))), 0)
    theirs = np.abs(np.asarray(flax, np.float64) - exact)
    distance = np.abs(np.asarray(x, np.float64).mean((0, 1, 2)) - share * mean)
    bound = 16 * np.finfo(np.float32).eps * (1 + exact + distance**2)
    assert (ours <= bound).all()
    assert ours.max() <= max(theirs.max(), bound.max() if share else 0)
