"""AutoAugment and TrivialAugment beside torchvision's arrays (tests/golden/make_policies.py), and how they draw."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training_flax.augment import policies
from training_flax.augment.affine import centre
from training_flax.augment.policies import OPS, apply_op, auto_augment, auto_augment_cifar10, trivial_augment

ARRAYS = np.load(Path(__file__).parents[2] / "golden" / "policies.npz")
NAMES = {name.split("/")[1] for name in ARRAYS if "/" in name}
RENAMED = {"Color": "saturation", "AutoContrast": "autocontrast"}
IMAGE = ARRAYS["picture"].astype(np.float32)
TABLES = {"auto": policies.auto_augment_amounts(20, 28), "trivial": policies.trivial_augment_amounts()}
GREY_IS_ROUNDED = ("Color", "Contrast", "Sharpness")  # by Pillow, in the image that it mixes with
compiled = jax.jit(apply_op)


def ours(name):
    """Returns the name of torchvision's operation here: ShearX is shear-x."""
    return RENAMED.get(name) or "".join(f"-{c.lower()}" if c.isupper() else c for c in name).strip("-")


def on_the_border(name, amount):
    """Marks the pixels (20, 28) whose places lie on the border of the image, within rounding."""
    rows, columns = np.mgrid[:20, :28] + 0.5
    if name == "ShearX":
        columns = columns + amount * rows
    elif name == "ShearY":
        rows = rows + amount * columns
    return np.min([abs(rows), abs(rows - 20), abs(columns), abs(columns - 28)], axis=0) < 1e-4


@pytest.mark.parametrize("name", sorted(NAMES))
def test_operations_are_torchvisions(name):
    """Within a grey level, at some of the amounts of both methods, in both directions; black comes from outside."""
    compared = 0
    for key in ARRAYS:
        kind, *rest = key.split("/")
        if len(rest) != 3 or rest[0] != name:
            continue
        amount = TABLES[kind][ours(name)][int(rest[1])] * int(rest[2])
        made = np.asarray(compiled(OPS.index(ours(name)), jnp.float32(amount), IMAGE))
        apart = abs(made - ARRAYS[key].astype(float))
        # Pillow cuts the result to whole grey levels; half a level of the other image is mixed in by the factor.
        allowed = 1.001 + (0.5 * abs(amount) if name in GREY_IS_ROUNDED else 0)
        assert apart[~on_the_border(name, amount)].max() <= allowed, key
        compared += 1
    assert compared in (1, 2, 8, 16)


def test_amounts_are_torchvisions():
    for key in ARRAYS:
        kind, *rest = key.split("/")
        if len(rest) == 1:
            theirs, mine = ARRAYS[key].astype(float), TABLES[kind][ours(rest[0])]
            # Shifts are cut to whole pixels, which float32 may do at 15.999999 in place of 16.
            theirs = np.floor(theirs + 1e-5) if rest[0].startswith("Translate") else theirs
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=2e-5, err_msg=key)
    assert set(TABLES["auto"]) == {ours(name) for name in NAMES} - {"identity"}
    assert set(TABLES["trivial"]) == {ours(name) for name in NAMES} - {"invert"}


@pytest.mark.parametrize("name", ["IMAGENET", "CIFAR10"])
def test_policies_are_torchvisions(name):
    theirs = [
        tuple((ours(op), float(rate), None if magnitude == "None" else int(magnitude)) for op, rate, magnitude in pair)
        for pair in ARRAYS[name].tolist()
    ]
    assert list(getattr(policies, name)) == theirs
    assert len(theirs) == 25


def many(augment, count, image=IMAGE, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(augment, (0, None)))(keys, jnp.asarray(image)))


def test_both_operations_of_a_sub_policy_follow_each_other():
    pair = (("solarize", 1.0, 5), ("autocontrast", 1.0, None))
    made = many(partial(auto_augment, policy=[pair]), 3)
    first = compiled(OPS.index("solarize"), jnp.float32(TABLES["auto"]["solarize"][5]), IMAGE)
    expected = compiled(OPS.index("autocontrast"), jnp.float32(0), first)
    np.testing.assert_allclose(made, np.broadcast_to(expected, made.shape), atol=1e-3)


def test_sub_policies_probabilities_and_signs_are_drawn_as_the_table_says():
    """Brightness multiplies an even image by 1 ± 0.1 magnitude, so its grey level tells what was drawn."""
    table = [(("brightness", 0.3, 3), ("identity", 0.0, None)), (("identity", 1.0, None), ("brightness", 0.8, 6))]
    image = np.full((3, 4, 3), 100, np.float32)
    # The table of amounts has no identity in AutoAugment, so "invert" of probability 0 stands for it.
    table = [tuple(("invert", 0.0, None) if op == "identity" else (op, *rest) for op, *rest in pair) for pair in table]
    levels = many(partial(auto_augment, policy=table), 4000, image)[:, 0, 0, 0]
    for level, share in ((70, 0.075), (130, 0.075), (40, 0.2), (160, 0.2), (100, 0.45)):
        found = (abs(levels - level) < 1e-2).mean()
        assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / 4000), level


def test_trivial_augment_draws_operations_and_amounts_alike_often():
    """Each op of 14 and each amount of 31 has the same probability, as the grey level of an even image tells."""
    image = np.full((3, 4, 3), 100, np.float32)
    levels = many(trivial_augment, 6000, image)[:, 1, 1, 0]
    bright = [100 * (1 + sign * amount) for amount in TABLES["trivial"]["brightness"][1:] for sign in (1, -1)]
    counts = np.array([(abs(levels - level) < 1e-2).sum() for level in bright])
    expected = 6000 / 14 / 31 / 2
    assert ((counts - expected) ** 2 / expected).sum() < 60 + 4 * np.sqrt(120)
    # A threshold of at most 100 inverts; amounts of 255 · (1 - k/30) are under it from k = 19 on: 12 of 31.
    inverted, share = (abs(levels - 155) < 1e-2).mean(), 12 / 31 / 14
    assert abs(inverted - share) < 4 * np.sqrt(share / 6000)


@pytest.mark.parametrize("augment", [auto_augment, auto_augment_cifar10, trivial_augment])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_and_three_channels_stay_within_the_range(augment, channels):
    image = IMAGE[..., :channels]
    made = many(augment, 60, image)
    assert made.shape == (60, *image.shape)
    assert made.min() >= 0
    assert made.max() <= 255
    assert len(np.unique(made.reshape(60, -1), axis=0)) > 20
    np.testing.assert_array_equal(made, many(augment, 60, image))


@pytest.mark.parametrize("augment", [auto_augment, trivial_augment])
def test_float64_stays(x64, augment):
    made = augment(jax.random.key(0), jnp.asarray(IMAGE, jnp.float64))
    assert made.dtype == jnp.float64


@pytest.mark.parametrize("augment", [auto_augment, trivial_augment])
def test_says_which_channels_have_a_colour(augment):
    with pytest.raises(ValueError, match=r"^colour needs images of 1 or 3 channels; given 2"):
        augment(jax.random.key(0), jnp.zeros((4, 4, 2)))


def test_a_turn_is_about_the_middle():
    image = np.zeros((5, 5, 1), np.float32)
    image[0, 2] = 200
    turned = np.asarray(compiled(OPS.index("rotate"), jnp.float32(90), image))
    assert turned[2, 0, 0] == pytest.approx(200, abs=1e-2)  # against the clock: the top goes left
    np.testing.assert_array_equal(centre(jnp.asarray(image)), [2, 2])
