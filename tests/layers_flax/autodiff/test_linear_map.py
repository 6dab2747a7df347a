"""Linear maps with a transpose of their own, and what is computed again by way of them: every kind of derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close, derivatives

from layers_flax.autodiff.linear_map import after, linear_map


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def curve(a, x):
    return jnp.tanh(x * a) @ a.reshape(-1, 1) * x.sum()


def computed_again(function):
    """As what the networks do with it."""

    @jax.custom_jvp
    def again(*primals):
        return function(*primals)

    @again.defjvp
    def _(primals, tangents):
        return again(*primals), linear_map(
            lambda primals, tangents: jax.jvp(function, primals, tangents)[1],
            lambda primals, cotangent: jax.vjp(function, *after(primals, cotangent))[1](cotangent),
            primals,
            tangents,
        )

    return again


curve_again = computed_again(curve)


def test_what_is_computed_again_has_the_same_derivatives(x64):
    arguments = draw(5), draw(3, 5, seed=1)
    assert_close(derivatives(curve_again, arguments), derivatives(curve, arguments), 1e-13)


@pytest.mark.parametrize("argument", [0, 1])
def test_derivatives_by_one_argument_alone(x64, argument):
    a, x = draw(5), draw(3, 5, seed=1)

    def gradient(function):
        return jax.jit(jax.grad(lambda *args: jnp.square(function(*args)).sum(), argument))(a, x)

    assert_close(gradient(curve_again), gradient(curve), 1e-13)


def test_jacobians_by_columns_and_by_rows_are_the_same(x64):
    """By columns vmap maps the tangents and not the values, which a map without residuals computes of them alone."""
    rows, x = draw(4, 3, seed=1), draw(3)

    def doubled(x):
        return linear_map(lambda _, x: 2 * x, lambda _, y: 2 * y, (), x)

    np.testing.assert_allclose(jax.jacfwd(lambda x: doubled(rows @ x))(x), 2 * rows, rtol=1e-15)
    np.testing.assert_allclose(jax.jacrev(lambda x: doubled(rows @ x))(x), 2 * rows, rtol=1e-15)
    np.testing.assert_array_equal(jax.vmap(lambda _: doubled(x), out_axes=None)(rows), 2 * x)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (1, 0)])
def test_members_share_what_is_the_same_for_all(x64, axes):
    """Of what they share the gradient is the sum over the members."""
    many = [draw(2, 5), draw(2, 3, 5, seed=1)]
    arguments = [x[0] if axis is None else jnp.moveaxis(x, 0, axis) for x, axis in zip(many, axes, strict=True)]

    def gradient(function):
        mapped = jax.vmap(function, axes)
        return jax.grad(lambda *args: jnp.square(mapped(*args)).sum(), (0, 1))(*arguments)

    assert_close(gradient(curve_again), gradient(curve), 1e-13)


def test_means_over_a_mapped_axis_have_derivatives_inside_and_outside_of_it(x64):
    a, x = draw(5), draw(2, 3, 5, seed=1)

    def centred(a, x):
        return curve(a, x - jax.lax.pmean(x, "members"))

    def results(function):
        def mapped(run):
            return jax.vmap(run, (None, 0), axis_name="members")

        return {
            "jvp inside": mapped(lambda a, x: jax.jvp(function, (a, x), (a, x))[1])(a, x),
            "gradient inside": mapped(jax.grad(lambda a, x: function(a, x).sum(), (0, 1)))(a, x),
            "gradient outside": jax.grad(lambda a, x: jnp.square(mapped(function)(a, x)).sum(), (0, 1))(a, x),
        }

    assert_close(results(computed_again(centred)), results(centred), 1e-13)


def test_the_transpose_is_the_one_that_was_given(x64):
    doubled = jax.grad(lambda x: linear_map(lambda a, x: a * x, lambda a, ct: 2 * a * ct, jnp.asarray(3.0), x))
    assert doubled(jnp.asarray(1.0)) == 6
    assert jax.vmap(doubled)(jnp.ones(2)).tolist() == [6, 6]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("awaited", [0.0, -0.0, 1.0, -1.0, jnp.inf, -jnp.inf, jnp.nan])
def test_what_waits_comes_unchanged_whatever_is_awaited(dtype, awaited):
    tree = {"a": jnp.asarray([1.5, jnp.nan, -0.0]), "b": jnp.arange(3)}
    found = jax.jit(after)(tree, jnp.full((2, 2), awaited, dtype))
    jax.tree.map(np.testing.assert_array_equal, found, tree)


def test_the_second_run_is_not_merged_with_the_first():
    """Where it were, what `sin` and `exp` give would be kept."""
    x = jnp.ones((64, 1024))

    def chain(step):
        def scalar(x):
            for _ in range(8):
                x = step(x)
            return x.sum()

        return jax.jit(jax.grad(scalar)).lower(x).compile().memory_analysis().temp_size_in_bytes

    def step(x):
        return jnp.sin(jnp.cumsum(jnp.exp(jnp.cumsum(x, 0)), 1))

    assert chain(computed_again(step)) < 0.7 * chain(step)
