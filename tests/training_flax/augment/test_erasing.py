"""Random erasing: its boxes are torchvision's (tests/golden/make_policies.py), its noise the paper's."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training_flax.augment.erasing import AREAS, ASPECTS, first_that_fits, random_box, random_erasing

ARRAYS = np.load(Path(__file__).parents[2] / "golden" / "policies.npz")
IMAGE = np.full((24, 40, 3), -1, np.float32)  # no noise has this value


def many(count, probability=1.0, image=IMAGE):
    keys = jax.random.split(jax.random.key(0), count)
    erase = jax.jit(jax.vmap(partial(random_erasing, probability=probability), (0, None)))
    return np.asarray(erase(keys, jnp.asarray(image)))


def test_sizes_of_boxes_are_torchvisions():
    """Equal for equal draws of area and aspect, on 200 shapes; where none of ten fits, nothing is erased."""
    none = 0
    for height, width, box_height, box_width, *draws in ARRAYS["erased"]:
        areas, aspects = np.reshape(draws, (10, 2)).T
        found = first_that_fits(jnp.asarray(areas), jnp.asarray(aspects), int(height), int(width))
        if (box_height, box_width) == (height, width):  # torchvision's sign that no draw fits
            box_height = box_width = 0
            none += 1
        assert [int(side) for side in found] == [box_height, box_width]
    assert none < 200


def test_areas_and_aspects_are_within_their_bounds():
    keys = jax.random.split(jax.random.key(1), 3000)
    boxes = jax.jit(jax.vmap(lambda key: random_box(key, 200, 300)))(keys)
    top, left, height, width = (np.asarray(values) for values in boxes)
    areas, aspects = height * width / 60_000, height / width
    assert (AREAS[0] * 0.95 < areas).all()
    assert (areas < AREAS[1] * 1.02).all()
    assert (
        abs(areas.mean() - np.mean(AREAS)) < 4 * 0.31 / np.sqrt(12 * 3000) + 0.01
    )  # boxes that are too wide count less
    assert (ASPECTS[0] * 0.9 < aspects).all()
    assert (aspects < ASPECTS[1] * 1.1).all()
    assert top.min() == left.min() == 0
    assert ((top + height).max(), (left + width).max()) == (200, 300)


def test_a_box_of_noise_and_nothing_else_is_changed():
    for made in many(100):
        changed = (made != -1).all(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert changed.sum() == len(rows) * len(columns) > 0
        assert len(rows) == np.ptp(rows) + 1
        assert len(columns) == np.ptp(columns) + 1
        assert (made[~changed] == -1).all()
    noise = many(200)
    noise = noise[noise != -1]
    assert noise.min() >= 0
    assert noise.max() < 255
    assert abs(noise.mean() - 127.5) < 4 * 255 / np.sqrt(12 * noise.size)
    assert len(np.unique(noise)) > 0.5 * noise.size  # each pixel and channel has its own


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_boxes_come_as_often_as_asked(probability):
    share = (many(1000, probability) != -1).any((1, 2, 3)).mean()
    assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / 1000)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 60, 3), (2, 2, 1), (3, 200, 3)])
def test_odd_shapes_lose_at_most_what_fits(shape):
    made = many(50, image=np.full(shape, -1, np.float32))
    share = (made != -1).any(-1).mean((1, 2))
    assert (share < 1).all()
    if 1 in shape[:2]:  # no box is smaller than an image of one pixel's height
        assert (share == 0).all()
