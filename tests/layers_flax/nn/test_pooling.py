import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close, derivatives
from programs import count

from layers_flax import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool

SHAPES = [(8, 8, 3, 2, 1), (7, 10, 3, 2, 1), (5, 4, 2, 2, 0), (9, 9, 3, 1, 1), (6, 7, 2, 2, 1), (1, 1, 3, 2, 1)]


def draw(height, width):
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, height, width, 3)))


def stock_max_pool(x, window, stride, padding):
    pads = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), pads)


def windows(x, window, stride, padding):
    """Each window's place and its pixels, without padding."""
    rows, columns = ((n + 2 * padding - window) // stride + 1 for n in x.shape[1:3])
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride - padding, j * stride - padding
            yield (i, j), np.asarray(x)[:, max(top, 0) : top + window, max(left, 0) : left + window]


@pytest.mark.parametrize("shape", SHAPES)
def test_max_pool_equals_the_definition(x64, shape):
    x, options = draw(*shape[:2]), shape[2:]
    y = np.asarray(max_pool(x, *options))
    assert y.shape == stock_max_pool(x, *options).shape
    for (i, j), pixels in windows(x, *options):
        np.testing.assert_array_equal(y[:, i, j], pixels.max((1, 2)))


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_max_pool_padded_same_is_that_of_lax(x64, size):
    x = draw(size, size + 1)
    stock = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    np.testing.assert_array_equal(max_pool(x, 3, 2, "same"), stock)


@pytest.mark.parametrize("shape", SHAPES)
def test_max_pool_derivatives(x64, shape):
    """The gradient of `reduce_window`, and forward mode, second order and vmap beside it."""
    x, options = draw(*shape[:2]), shape[2:]
    ours = derivatives(lambda x: max_pool(x, *options), (x,))
    c = np.random.default_rng(1).standard_normal(ours["value"].shape)
    expected = jax.grad(lambda x: (c * (y := stock_max_pool(x, *options)) + y**3 / 3).sum())(x)
    assert_close(ours["grad"][0], expected, 1e-14)
    eps, tangent = 1e-6, np.random.default_rng(2).standard_normal(x.shape)
    difference = (max_pool(x + eps * tangent, *options) - max_pool(x - eps * tangent, *options)) / (2 * eps)
    assert_close(ours["jvp"], difference, 1e-8)
    assert_close(ours["vmap"][1], 2 * ours["value"], 1e-14)


def test_of_equal_values_the_first_gets_the_gradient():
    x = jnp.ones((1, 4, 4, 1))
    gradient = jax.grad(lambda x: max_pool(x, 2).sum())(x)[0, :, :, 0]
    np.testing.assert_array_equal(gradient, np.tile([[1, 0], [0, 0]], (2, 2)))


def test_max_pool_does_not_hide_nan_and_keeps_the_type():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(max_pool(x, 2))[0, :, :, 0], [[False, True], [False, False]])
    assert max_pool(x.astype(jnp.bfloat16), 3, 2, 1).dtype == jnp.bfloat16
    np.testing.assert_array_equal(max_pool(jnp.full((1, 2, 2, 1), -7), 3, 2, 1), -7)


def test_pools_are_windows_where_that_is_faster_and_slices_where_a_gradient_is_to_be_taken():
    x = jnp.zeros((2, 8, 8, 3))
    pools = {overlap: lambda x, overlap=overlap: max_pool(x, 2 + overlap, 2, 1) for overlap in (True, False)}
    # Two, for on the CPU both axes at once take five times as long.
    assert [count("reduce_window_max", pool, x) for pool in pools.values()] == [2, 0]
    for pool in (*pools.values(), lambda x: avg_pool(x, 2)):
        program = str(jax.make_jaxpr(jax.grad(lambda x, pool=pool: pool(x).sum()))(x))
        assert "select_and" not in program and "reduce_window" not in program


@pytest.mark.parametrize("shape", SHAPES)
def test_avg_pool_does_not_count_padding(x64, shape):
    x, options = draw(*shape[:2]), shape[2:]
    y = np.asarray(avg_pool(x, *options))
    for (i, j), pixels in windows(x, *options):
        np.testing.assert_allclose(y[:, i, j], pixels.mean((1, 2)), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2), (3, 1), (2, 1), (5, 3)])
@pytest.mark.parametrize(("height", "width"), [(8, 9), (5, 7)])
def test_avg_pool_with_padding_same_does_not_count_it(x64, window, stride, height, width):
    """TensorFlow's average pool."""
    x = draw(height, width)
    shapes = (1, window, window, 1), (1, stride, stride, 1), "SAME"
    sums, counts = (jax.lax.reduce_window(part, 0.0, jax.lax.add, *shapes) for part in (x, jnp.ones_like(x)))
    np.testing.assert_allclose(avg_pool(x, window, stride, "same"), sums / counts, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (2, 5), (14, 9)])
def test_adaptive_avg_pool_equals_pytorchs_definition(x64, size, height, width):
    x = draw(height, width)
    y = np.asarray(adaptive_avg_pool(x, size))
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, -(-(i + 1) * height // size))
            columns = slice(j * width // size, -(-(j + 1) * width // size))
            np.testing.assert_allclose(y[:, i, j], np.asarray(x)[:, rows, columns].mean((1, 2)), rtol=1e-13)


def test_global_avg_pool_is_wide():
    x = jnp.full((1, 64, 64, 2), 0.1, jnp.bfloat16)
    y = global_avg_pool(x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, np.float32(x[0, 0, 0, 0]), rtol=1e-6)


def test_errors_name_the_values():
    with pytest.raises(ValueError, match="a window of 2 with padding 0 does not fit in an image 1 pixels high"):
        avg_pool(jnp.zeros((1, 1, 4, 1)), 2)
    with pytest.raises(ValueError, match="padding must be 'same', or from 0 to half the window of 3; given 2"):
        max_pool(jnp.zeros((1, 8, 8, 1)), 3, 2, 2)
