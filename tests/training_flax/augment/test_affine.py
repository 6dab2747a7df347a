from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training_flax.augment.affine import random_affine

STILL = dict(rotation=0.0, shear=0.0, scale=0.0, shift=0.0)


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).random(shape), jnp.float32)


def moved(seed, images, **amounts):
    keys = jax.random.split(jax.random.key(seed), len(images))
    return np.asarray(jax.jit(jax.vmap(partial(random_affine, **amounts)))(keys, images))


def test_channels_move_together_and_images_apart():
    images = jnp.tile(draw(1, 12, 12, 1), (3, 1, 1, 2))
    result = moved(0, images)
    np.testing.assert_array_equal(result[..., 0], result[..., 1])
    assert np.abs(result[0] - result[1]).max() > 0.1


def test_a_shift_moves_the_centre_of_mass_by_at_most_its_share():
    """Moves a blob far from the border in 200 images, in both directions, by up to 0.1 of 40 pixels."""
    rows = jnp.exp(-((jnp.arange(40) - 19.5) ** 2) / 18)
    images = jnp.tile((rows[:, None] * rows)[None, :, :, None], (200, 1, 1, 1))
    result = moved(1, images, **STILL | dict(shift=0.1))[..., 0]
    offsets = (result.sum(2) * np.arange(40)).sum(1) / result.sum((1, 2)) - 19.5
    assert np.abs(offsets).max() <= 4.01
    assert offsets.min() < -3
    assert offsets.max() > 3
    # The shift is uniform from -4 to 4, so the mean of 200 has a standard error of 4 / sqrt(3 · 200).
    assert abs(offsets.mean()) < 4 * 4 / np.sqrt(600)


@pytest.mark.parametrize(("name", "amount"), [("rotation", 0.2), ("scale", 0.1), ("shear", 0.2)])
def test_turns_scales_and_slants_leave_the_centre(name, amount):
    images = jnp.zeros((50, 11, 11, 1)).at[:, 5, 5].set(1.0)
    np.testing.assert_allclose(moved(2, images, **STILL | {name: amount})[:, 5, 5], 1.0, atol=1e-5)
    images = draw(50, 11, 11, 1)
    assert np.abs(moved(2, images, **STILL | {name: amount}) - images).max() > 0.1


def test_the_factor_is_on_all_amounts():
    images = draw(5, 9, 7, 1)
    half = dict(rotation=0.1, shear=0.1, scale=0.05, shift=0.05)
    np.testing.assert_allclose(moved(3, images, factor=0.5), moved(3, images, **half), atol=1e-5)


def test_what_comes_in_from_outside_is_black():
    result = moved(3, jnp.full((64, 8, 8, 1), 255.0), **STILL | dict(shift=0.5))
    assert set(np.unique(np.round(result, 3))) == {0.0, 255.0}
