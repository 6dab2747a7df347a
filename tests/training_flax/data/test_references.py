"""Crops, colours and mixtures of 200 pictures of noise beside torchvision's and timm's (tests/golden/make_crops.py)."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from noise import BOXES, COUNT, CROPS, FACTORS, SHAPES, SHARES, noise, sizes

from training_flax.augment import color, mix
from training_flax.augment.crops import Box, resized_box
from training_flax.data.decode import centre_crop, resized_crop

ARRAYS = np.load(Path(__file__).parents[2] / "golden" / "crops.npz")
LEVEL = 1.05  # a grey level, and the rounding of the fixed-point numbers that Pillow computes with
INTERPOLATIONS = ("bilinear", "bicubic")


def crops_of(name):
    """Yields the reference's crops one by one: (size, size, 3)."""
    start, values = 0, ARRAYS[name]
    for index in range(COUNT):
        size = sizes(index)[0]
        yield values[start : start + 3 * size**2].reshape(size, size, 3).astype(int)
        start += 3 * size**2
    assert start == len(values)


def test_the_pictures_are_odd_in_every_way():
    margins = {
        int(short * side / min(shape)) - size
        for index, shape in enumerate(SHAPES)
        for size, short in [sizes(index)]
        for side in shape
    }
    assert {margin % 4 for margin in margins} == {0, 1, 2, 3}
    assert max(max(shape) / min(shape) for shape in SHAPES) > 10
    assert sum(height == width for height, width in SHAPES) >= 20
    assert len({noise(index, SHAPES[index]).tobytes() for index in range(COUNT)}) == COUNT


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_centre_crops_are_torchvisions(interpolation):
    for index, expected in enumerate(crops_of(f"centre_{interpolation}")):
        size, short = sizes(index)
        crop = centre_crop(noise(index, SHAPES[index]), size, size / short, interpolation=interpolation)
        assert abs(crop.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_centre_crops_are_timms(interpolation):
    for index, expected in enumerate(crops_of(f"timm_{interpolation}")):
        image, share = noise(index, SHAPES[index]), CROPS[index % len(CROPS)]
        crop = centre_crop(image, sizes(index)[0], share, interpolation=interpolation, rule="timm")
        assert abs(crop.astype(int) - expected).max() <= 1


def test_the_rules_differ():
    image = noise(0, (33, 47))
    crops = [centre_crop(image, 8, 0.95, rule=rule) for rule in ("torchvision", "timm", "centred")]
    assert not np.array_equal(crops[0], crops[2])
    assert not np.array_equal(centre_crop(image, 10, 0.95, rule="timm"), centre_crop(image, 10, 0.95))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_boxes_that_the_decoder_resizes_are_torchvisions(interpolation):
    for index, expected in enumerate(crops_of(f"boxes_{interpolation}")):
        crop = resized_crop(noise(index, SHAPES[index]), BOXES[index], sizes(index)[0], interpolation)
        assert abs(crop.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_boxes_that_the_device_resizes_are_torchvisions_but_at_the_boxes_borders(interpolation):
    """There the device interpolates with pixels beside the box, and torchvision without: see docs/data.md."""
    support = {"bilinear": 1, "bicubic": 2}[interpolation]
    side, far, worst = 16, 0, 0.0
    for index in range(COUNT):
        image = noise(index, (side, side))
        top, left, height, width = (value % side for value in BOXES[index])
        top, left = min(top, side - 2), min(left, side - 2)
        height, width = max(2, min(height, side - top)), max(2, min(width, side - left))
        box = Box(*map(jnp.int32, (top, left, height, width)))
        ours = np.asarray(resized_box(jnp.asarray(image, jnp.float32), box, interpolation))
        theirs = resized_crop(image, (top, left, height, width), side, interpolation).astype(float)
        rows, columns = ((np.arange(side) + 0.5) * length / side for length in (height, width))
        inside = ((rows >= support) & (rows <= height - support))[:, None] & (
            (columns >= support) & (columns <= width - support)
        )
        worst = max(worst, abs(ours - theirs)[inside].max(initial=0))
        far += inside.sum()
    assert far > COUNT * side
    assert worst <= LEVEL, worst


def test_colours_are_torchvisions():
    """Pillow cuts off fractions, and rounds the mean grey level: 1.2 levels for a change, 3.5 for three in a row."""
    names = (color.brightness, color.contrast, color.saturation)
    one, three = 0.0, 0.0
    for index, factors in enumerate(FACTORS):
        image = chained = jnp.asarray(noise(index, (6, 6)), jnp.float32)
        for place, (factor, change) in enumerate(zip(factors, names, strict=True)):
            one = max(one, float(abs(change(image, factor) - ARRAYS["jitter"][index, place].astype(float)).max()))
            chained = change(chained, factor)
        three = max(three, float(abs(chained - ARRAYS["jitter"][index, 3].astype(float)).max()))
    assert one <= 1.2
    assert 2 < three <= 3.5


def test_mixtures_are_those_of_torchvision_and_timm():
    """Mixup and CutMix's boxes, for the same shares and middles; ours draw a share for each image."""
    for index, (share, row, column) in enumerate(SHARES):
        height, width = SHAPES[index]
        size = jnp.array([height, width])
        low, high = mix.box_around(jnp.array([row, column]), size, jnp.float32(1 - share))
        (top, left), (bottom, right) = np.clip(low, 0, size), np.clip(high, 0, size)
        assert [top, bottom, left, right] == ARRAYS["cutmix"][index].tolist(), index
        pair = [jnp.asarray(noise(number, (6, 6)), jnp.float32) for number in (index, index + 1)]
        for place, (mine, other) in enumerate((pair, pair[::-1])):
            mixed = share * mine + (1 - share) * other
            assert abs(np.asarray(mixed) - ARRAYS["mixup"][index, place]).max() <= 1e-3
