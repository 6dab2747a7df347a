import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training_flax import random_affine

STILL = dict(rotation=0.0, shear=0.0, scale=0.0, shift=0.0)


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).random(shape), jnp.float32)


def test_without_any_amount_images_stay():
    images = draw(2, 7, 9, 3)
    np.testing.assert_allclose(random_affine(jax.random.key(0), images, **STILL), images, atol=1e-5)


def test_channels_move_together_and_images_apart():
    images = jnp.tile(draw(1, 12, 12, 1), (3, 1, 1, 2))
    moved = np.asarray(random_affine(jax.random.key(0), images))
    np.testing.assert_array_equal(moved[..., 0], moved[..., 1])
    assert np.abs(moved[0] - moved[1]).max() > 0.1
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(moved, random_affine(jax.random.key(0), images))


def test_a_shift_moves_the_centre_of_mass_by_at_most_its_share():
    """A blob far from the border, in 200 images: it moves in both directions, up to 0.1 of 40 pixels."""
    rows = jnp.exp(-((jnp.arange(40) - 19.5) ** 2) / 18)
    images = jnp.tile((rows[:, None] * rows)[None, :, :, None], (200, 1, 1, 1))
    moved = np.asarray(random_affine(jax.random.key(1), images, **STILL | dict(shift=0.1)))[..., 0]
    offsets = (moved.sum(2) * np.arange(40)).sum(1) / moved.sum((1, 2)) - 19.5
    assert np.abs(offsets).max() <= 4.01
    assert offsets.min() < -3
    assert offsets.max() > 3
    # Evenly from -4 to 4: the mean of 200 has a standard error of 4 / sqrt(3 · 200).
    assert abs(offsets.mean()) < 4 * 4 / np.sqrt(600)


@pytest.mark.parametrize(("name", "amount"), [("rotation", 0.2), ("scale", 0.1), ("shear", 0.2)])
def test_turns_scales_and_slants_leave_the_centre(name, amount):
    images = jnp.zeros((50, 11, 11, 1)).at[:, 5, 5].set(1.0)
    moved = np.asarray(random_affine(jax.random.key(2), images, **STILL | {name: amount}))
    np.testing.assert_allclose(moved[:, 5, 5], 1.0, atol=1e-5)
    images = draw(50, 11, 11, 1)
    assert np.abs(np.asarray(random_affine(jax.random.key(2), images, **STILL | {name: amount})) - images).max() > 0.1


def test_what_comes_in_from_outside_is_black():
    moved = random_affine(jax.random.key(3), jnp.full((64, 8, 8, 1), 255, jnp.uint8), **STILL | dict(shift=0.5))
    assert float(moved.min()) == 0.0
    assert float(moved.max()) == pytest.approx(255, rel=1e-5)
