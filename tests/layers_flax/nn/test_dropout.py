import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers_flax import Dropout, DropPath


def drop(layer, x, key=0, train=True):
    return layer.apply({}, x, train, rngs={"dropout": jax.random.key(key)})


@pytest.mark.parametrize("layer", [Dropout, DropPath])
def test_off_in_evaluation_and_at_rate_zero(layer):
    x = jnp.ones((4, 3, 3, 2))
    np.testing.assert_array_equal(drop(layer(0.5), x, train=False), x)
    np.testing.assert_array_equal(layer(0.0).apply({}, x, True), x)


def test_a_share_of_the_values_is_dropped_and_the_mean_kept():
    y = np.asarray(drop(Dropout(0.3), jnp.ones((100, 10, 10, 10))))
    # Of 10⁵ values, dropped ones have a share of 0.3 with a standard error of sqrt(0.3 · 0.7 / 10⁵).
    assert abs((y == 0).mean() - 0.3) < 4 * np.sqrt(0.21 / 1e5)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)


def test_a_path_is_dropped_whole_example_by_example():
    y = np.asarray(drop(DropPath(0.5), jnp.ones((1000, 2, 2, 3))))
    assert np.all(y == y[:, :1, :1, :1])
    assert set(np.unique(y)) == {0.0, 2.0}
    assert abs((y[:, 0, 0, 0] == 0).mean() - 0.5) < 4 * np.sqrt(0.25 / 1000)


@pytest.mark.parametrize("layer", [Dropout, DropPath])
def test_the_same_key_drops_the_same_values_however_the_batch_is_spread(layer):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((12, 3, 2)))
    whole = drop(layer(0.5), x)
    parts = jax.vmap(lambda x: drop(layer(0.5, axis_name="data"), x), axis_name="data")(x.reshape(4, 3, 3, 2))
    np.testing.assert_array_equal(parts.reshape(12, 3, 2), whole)
    assert not np.array_equal(drop(layer(0.5), x, key=1), whole)


def test_type_stays():
    assert drop(Dropout(0.5), jnp.ones((2, 2), jnp.bfloat16)).dtype == jnp.bfloat16
