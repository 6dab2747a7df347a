from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training_flax.augment import color

POLICIES = np.load(Path(__file__).parents[2] / "golden" / "policies.npz")


def test_brightness_of_an_even_image_changes_by_a_uniform_factor():
    """Contrast and saturation do not change a constant grey."""
    image = jnp.full((2, 2, 3), 100.0)
    keys = jax.random.split(jax.random.key(0), 4000)
    jittered = np.asarray(jax.jit(jax.vmap(color.colour_jitter, (0, None)))(keys, image))
    np.testing.assert_allclose(jittered, np.broadcast_to(jittered[:, :1, :1, :1], jittered.shape), atol=1e-3)
    factors = jittered[:, 0, 0, 0] / 100
    assert factors.min() >= 0.6 - 1e-5
    assert factors.max() <= 1.4 + 1e-5
    assert abs(factors.mean() - 1) < 4 * np.sqrt(0.8**2 / 12 / 4000)
    assert abs(factors.var() / 0.8**2 - 1 / 12) < 4 * np.sqrt((1 / 80 - 1 / 144) / 4000)


def test_the_order_is_random():
    """Checks all six orders of the changes, which differ where values are cut at 0 or 255."""
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3)), jnp.float32)
    orders = jax.jit(jax.vmap(lambda key: jax.random.permutation(jax.random.split(key)[1], 3)))
    keys = jax.random.split(jax.random.key(0), 60)
    jitter = jax.jit(jax.vmap(partial(color.colour_jitter, strength=1.0), (0, None)))
    assert len(np.unique(orders(keys), axis=0)) == 6
    ops = (color.brightness, color.contrast, color.saturation)
    for key, order, jittered in zip(keys[:8], np.asarray(orders(keys))[:8], jitter(keys[:8], image), strict=True):
        factors = jax.random.uniform(jax.random.split(key)[0], (3,), minval=0.0, maxval=2.0)
        expected = image
        for which in order:
            expected = ops[which](expected, factors[which])
        np.testing.assert_allclose(jittered, expected, atol=1e-3)


@pytest.mark.parametrize("op", [color.brightness, color.contrast, color.saturation, color.sharpness])
def test_values_stay_from_0_to_255_and_a_factor_of_1_changes_nothing(op):
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3)), jnp.float32)
    np.testing.assert_array_equal(op(image, 1.0), image)
    exaggerated = op(image, 9.0)
    assert float(exaggerated.min()) >= 0
    assert float(exaggerated.max()) == 255


def test_grey_images_have_no_saturation():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (5, 6, 1)), jnp.float32)
    np.testing.assert_array_equal(color.saturation(image, 1.7), image)
    np.testing.assert_allclose(color.saturation(jnp.tile(image, 3), 1.7), jnp.tile(image, 3), atol=1e-3)


def test_says_which_channels_have_a_colour():
    with pytest.raises(ValueError, match=r"^colour needs images of 1 or 3 channels; given 2"):
        color.colour_jitter(jax.random.key(0), jnp.zeros((4, 4, 2)))


def test_hue_is_torchvisions_formula():
    """On noise, grey, black and two equal channels; see docs/data.md for Pillow, which rounds hue to 256 levels."""
    colours, turns = jnp.asarray(POLICIES["colours"], jnp.float32), POLICIES["turns"]
    ours = np.stack([color.turn_hue(colours, turn) for turn in turns])
    np.testing.assert_allclose(ours, POLICIES["hue"], atol=255 * 1e-5)  # the reference is float32 of 0 to 1
    apart = abs(ours - POLICIES["hue_pillow"].astype(float))
    assert apart.max() < 15
    assert apart.mean() < 1
    assert (color.turn_hue(colours[..., :1], 0.3) == colours[..., :1]).all()


def test_a_hue_in_the_jitter_is_drawn_evenly_and_in_any_order():
    red = jnp.zeros((1, 1, 3)).at[..., 0].set(200.0)
    keys = jax.random.split(jax.random.key(0), 3000)
    jitter = partial(color.colour_jitter, strength=0.0, hue=0.1)
    made = np.asarray(jax.jit(jax.vmap(jitter, (0, None)))(keys, red))[:, 0, 0]
    assert made[:, 0].max() == pytest.approx(200, abs=1e-3)  # value and saturation stay
    assert made.min(-1).max() < 1e-3
    turns = (made[:, 1] - made[:, 2]) / 200 / 6
    assert abs(turns).max() <= 0.1 + 1e-6
    assert abs(turns.mean()) < 4 * 0.2 / np.sqrt(12 * 3000)
    assert abs(turns.var() / 0.2**2 - 1 / 12) < 4 * np.sqrt((1 / 80 - 1 / 144) / 3000)
    picture = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3)), jnp.float32)
    both = np.asarray(jax.jit(jax.vmap(partial(color.colour_jitter, hue=0.5), (0, None)))(keys[:200], picture))
    assert len(np.unique(both.reshape(200, -1), axis=0)) == 200
    assert both.min() >= 0
    assert both.max() <= 255


def test_without_a_hue_nothing_is_drawn_anew():
    picture = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3)), jnp.float32)
    for seed in range(5):
        plain, none = (color.colour_jitter(jax.random.key(seed), picture, **hue) for hue in ({}, {"hue": 0.0}))
        np.testing.assert_array_equal(plain, none)
