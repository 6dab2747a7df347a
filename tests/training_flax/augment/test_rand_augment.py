from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from training_flax.augment.rand_augment import COLOUR_OPS, OPS, apply_op, autocontrast, equalize, rand_augment


def picture(channels=3):
    """Makes waves of all grey levels with a little noise, 40 × 56 uint8."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :56]
    waves = [np.sin(rows / a + columns / b + c) for a, b, c in [(5, 9, 0), (-7, 6, 1), (11, -8, 2)][:channels]]
    return (120 + 100 * np.stack(waves, -1) + rng.normal(0, 10, (40, 56, channels))).clip(0, 255).astype(np.uint8)


def pillow(name, sign, image, magnitude):
    """Applies the op by Pillow, with timm's amounts."""
    amount = magnitude / 10
    factor = max(0.1, 1 + sign * 0.9 * amount)
    slant, share = sign * 0.3 * amount, sign * 0.45 * amount
    fill = (128,) * len(image.getbands())

    def move(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill)

    return {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - int(amount * 4)),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(amount * 256)),
        "solarize-add": lambda: image.point(
            [min(255, i + int(amount * 110)) if i < 128 else i for i in range(256)] * len(fill)
        ),
        "saturation": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "rotate": lambda: image.rotate(sign * 30 * amount, Image.Resampling.BILINEAR, fillcolor=fill),
        "shear-x": lambda: move(1, slant, 0, 0, 1, 0),
        "shear-y": lambda: move(1, 0, 0, slant, 1, 0),
        "translate-x": lambda: move(1, 0, share * image.width, 0, 1, 0),
        "translate-y": lambda: move(1, 0, 0, 0, 1, share * image.height),
    }[name]()


EXACT = ("equalize", "invert", "posterize", "solarize", "solarize-add")
GREY_IS_ROUNDED = ("saturation", "contrast", "sharpness")
SIGNED = OPS.index("saturation")  # the first op with a direction
compiled = jax.jit(apply_op, static_argnums=3)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("magnitude", [0, 6, 9])
def test_ops_are_pillows(name, magnitude):
    image = picture()
    for sign in (1, -1):
        expected = np.asarray(pillow(name, sign, Image.fromarray(image), magnitude), np.float32)
        ours = compiled(OPS.index(name), sign, image.astype(np.float32), magnitude)
        # Pillow cuts the result to whole grey levels, and rounds some of the images that it mixes.
        mixed_in = 0.5 * 0.09 * magnitude if name in GREY_IS_ROUNDED else 0
        np.testing.assert_allclose(ours, expected, atol=1e-4 if name in EXACT else 1.001 + mixed_in)


def test_all_ops_change_the_picture():
    """The comparison above covers every index."""
    image = picture().astype(np.float32)
    changed = [np.asarray(compiled(op, 1, image, 6)) for op in range(len(OPS))]
    assert all((c != image).any() for c in changed)
    assert all((a != b).any() for i, a in enumerate(changed) for b in changed[:i])


@pytest.mark.parametrize("op", [autocontrast, equalize])
def test_an_even_channel_stays(op):
    image = np.full((20, 20, 1), 77, np.float32)
    np.testing.assert_array_equal(op(jnp.asarray(image)), image)
    # A channel that is constant within the error of interpolation is not stretched either.
    image[3, 4] += 1e-4
    np.testing.assert_allclose(op(jnp.asarray(image)), image, atol=1e-3)


def test_grey_images_are_pillows_too():
    image = picture(1)
    for name in COLOUR_OPS:
        expected = np.asarray(pillow(name, -1, Image.fromarray(image[..., 0]), 6), np.float32)
        ours = compiled(OPS.index(name), -1, image.astype(np.float32), 6)[..., 0]
        np.testing.assert_allclose(ours, expected, atol=1.001 + 0.5 * 0.54)


def test_ops_are_drawn_alike_often_and_used_half_the_time():
    """One layer on 1500 keys picks each op with the right frequency, as the images show."""
    image = jnp.asarray(picture()[::2, ::2], jnp.float32)
    keys = jax.random.split(jax.random.key(0), 1500)
    seen = np.asarray(jax.jit(jax.vmap(partial(rand_augment, layers=1), (0, None)))(keys, image))
    unchanged = (seen == image).all((1, 2, 3))
    assert abs(unchanged.sum() - 750) < 4 * np.sqrt(375)
    counts = np.zeros(len(OPS))
    for op in range(len(OPS)):
        made = np.stack([compiled(op, sign, image, 6) for sign in ((1, -1) if op >= SIGNED else (1,))])
        counts[op] = (np.abs(seen[~unchanged, None] - made).max((2, 3, 4)) < 1e-2).sum()
    assert counts.sum() == (~unchanged).sum()
    expected = counts.sum() / len(OPS)
    # 14 degrees of freedom: variance 28.
    assert ((counts - expected) ** 2 / expected).sum() < 14 + 4 * np.sqrt(28)


def test_the_largest_magnitude_leaves_no_bits_and_inverts_all():
    image = picture().astype(np.float32)
    assert not np.asarray(compiled(OPS.index("posterize"), 1, image, 10)).any()
    np.testing.assert_array_equal(compiled(OPS.index("solarize"), 1, image, 10), 255 - image)


@pytest.mark.slow
def test_magnitudes_are_drawn_by_timms_law():
    """Brightness multiplies by 1 ± 0.09 magnitude, so an even image tells the magnitude that was drawn."""
    image, noise = jnp.full((4, 4, 3), 100.0), 3.0
    augment = jax.jit(jax.vmap(partial(rand_augment, layers=1, noise=noise), (0, None)))
    keys = jax.random.split(jax.random.key(0), 20_000)
    seen = np.asarray(augment(keys, image))[:, 0, 0, 0]
    layers = jax.vmap(lambda key: jax.random.split(jax.random.split(key, 1)[0], 3))(keys)
    ops = np.asarray(jax.vmap(lambda key: jax.random.randint(key, (), 0, len(OPS)))(layers[:, 0]))
    used = np.asarray(jax.vmap(jax.random.bernoulli)(layers[:, 2]))
    drawn = abs(seen[(ops == OPS.index("brightness")) & used] - 100) / 9
    # A normal distribution of mean 6 whose tails beyond 0 and 10 lie on 0 and 10; 0.1 is the least factor.
    assert len(drawn) > 500
    error = 4 / np.sqrt(len(drawn))
    assert abs((drawn < 1e-3).mean() - 0.0228) < error * 0.15
    assert abs((drawn > 9.99).mean() - 0.0912) < error * 0.29
    inside = drawn[(drawn > 1e-3) & (drawn < 9.99)]
    assert abs(np.median(inside) - 5.75) < 1.25 * error * noise
    assert inside.min() < 2
    assert inside.max() > 9


@pytest.mark.slow
def test_without_noise_nothing_is_drawn_anew():
    """A run that began without the noise goes on with the same images, bit for bit."""
    image, keys = jnp.asarray(picture(), jnp.float32), jax.random.split(jax.random.key(3), 8)
    plain, none, little = (
        np.asarray(jax.jit(jax.vmap(partial(rand_augment, **options), (0, None)))(keys, image))
        for options in ({}, {"noise": 0.0}, {"noise": 1e-6})
    )
    np.testing.assert_array_equal(plain, none)
    np.testing.assert_allclose(plain, little, atol=1e-2)


@pytest.mark.parametrize("name", OPS)
def test_a_magnitude_that_is_drawn_means_the_same(name):
    image, op = picture().astype(np.float32), OPS.index(name)
    for magnitude in (0.0, 2.3, 6.3, 9.9):
        drawn = jax.jit(apply_op)(op, -1, image, jnp.float32(magnitude))
        np.testing.assert_allclose(drawn, compiled(op, -1, image, magnitude), atol=2e-3)


@pytest.mark.slow
def test_layers_follow_each_other():
    image = jnp.asarray(picture(), jnp.float32)
    for layers, rate in ((0, 0.0), (2, 0.75)):
        augment = jax.jit(jax.vmap(partial(rand_augment, layers=layers), (0, None)))
        changed = np.asarray(augment(jax.random.split(jax.random.key(0), 200), image) != image).any((1, 2, 3))
        assert abs(changed.sum() - 200 * rate) <= 4 * np.sqrt(200 * rate * (1 - rate))


def test_says_which_channels_have_a_colour():
    with pytest.raises(ValueError, match=r"^colour needs images of 1 or 3 channels; given 4"):
        rand_augment(jax.random.key(0), jnp.zeros((4, 4, 4)))
