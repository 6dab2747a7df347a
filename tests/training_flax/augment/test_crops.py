import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training_flax.augment.crops import pad_and_crop, random_box, random_flip, random_resized_crop


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def boxes(count, height, width, **options):
    draw = jax.jit(jax.vmap(lambda key: random_box(key, height, width, **options)))
    return jax.tree.map(np.asarray, draw(keys(count)))


def assert_uniform(values, low, high):
    """Checks mean and variance of a uniform distribution, within 4 standard errors, and its range."""
    assert values.min() >= low
    assert values.max() <= high
    share = (values - low) / (high - low)
    assert abs(share.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / len(values))
    # The fourth central moment is 1/80.
    assert abs(share.var() - 1 / 12) < 4 * np.sqrt((1 / 80 - 1 / 144) / len(values))


def test_crops_lie_anywhere_in_the_padded_image_alike_often():
    """A bright pixel in the middle reaches each of the 5 × 5 pixels that a padding of 2 allows."""
    image = jnp.zeros((5, 5, 1)).at[2, 2].set(1.0)
    counts = np.asarray(jax.vmap(lambda key: pad_and_crop(key, image, padding=2))(keys(5000)).sum(0)).ravel()
    assert counts.sum() == 5000
    chi_square = ((counts - 200) ** 2 / 200).sum()
    # 24 degrees of freedom: variance 48.
    assert chi_square < 24 + 4 * np.sqrt(48)


def test_padding_is_black():
    crops = jax.vmap(lambda key: pad_and_crop(key, jnp.full((3, 4, 2), 9.0), padding=5))(keys(50))
    assert crops.shape == (50, 3, 4, 2)
    assert set(np.unique(crops)) == {0.0, 9.0}


def test_half_the_images_are_flipped_left_to_right():
    image = jnp.arange(24.0).reshape(2, 4, 3)
    flipped = np.asarray(jax.vmap(lambda key: random_flip(key, image))(keys(2000)))
    is_flipped = (flipped == image[:, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(is_flipped, ~(flipped == image).all((1, 2, 3)))
    assert abs(is_flipped.sum() - 1000) < 4 * np.sqrt(500)


def test_boxes_follow_the_law_of_area_and_aspect():
    """Draws boxes in 10^4 × 10^4 pixels, where rounding is negligible; an area up to 3/4 fits with any aspect."""
    side = 10**4
    box = boxes(20_000, side, side, min_area=0.08)
    area = box.height / side * (box.width / side)
    small = area < 3 / 4
    assert_uniform(area[small], 0.08 - 1e-4, 3 / 4)
    assert_uniform(np.log(box.width / box.height)[small], -np.log(4 / 3) - 1e-3, np.log(4 / 3) + 1e-3)
    # An area a over 3/4 fits with probability ln(1/a) / ln(4/3).
    large = (1 / 4 + 3 / 4 * np.log(3 / 4)) / np.log(4 / 3)
    share = 0.67 / (0.67 + large)
    assert abs(small.mean() - share) < 4 * np.sqrt(share * (1 - share) / len(small))
    assert_uniform(box.top[small] / (side - box.height[small]), 0, 1)
    assert_uniform(box.left[small] / (side - box.width[small]), 0, 1)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 31), (32, 20)])
def test_boxes_lie_within_the_image(height, width):
    box = boxes(500, height, width, min_area=0.0)
    assert (box.height > 0).all()
    assert (box.width > 0).all()
    assert (box.top >= 0).all()
    assert (box.left >= 0).all()
    assert (box.top + box.height <= height).all()
    assert (box.left + box.width <= width).all()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (16, 16, (0, 0, 16, 16))],
)
def test_where_no_box_fits_it_is_the_largest_central_one(height, width, expected):
    box = boxes(20, height, width, min_area=1.0)
    np.testing.assert_array_equal(np.stack(box, 1), [expected] * 20)


def test_the_box_is_stretched_over_the_image():
    """A ramp stays a ramp: pixel i shows row top + (i + 1/2) · box's height / height - 1/2, or the border's."""
    rows, columns = jnp.meshgrid(jnp.arange(20.0), jnp.arange(30.0), indexing="ij")
    ramp = jnp.stack([rows, columns], -1)
    crops = np.asarray(jax.jit(jax.vmap(random_resized_crop, (0, None)))(keys(50), ramp))
    box = boxes(50, 20, 30)
    row = box.top[:, None] + (np.arange(20) + 0.5) * box.height[:, None] / 20 - 0.5
    column = box.left[:, None] + (np.arange(30) + 0.5) * box.width[:, None] / 30 - 0.5
    np.testing.assert_allclose(crops[..., 0], np.tile(row.clip(0, 19)[:, :, None], 30), atol=1e-4)
    np.testing.assert_allclose(crops[..., 1], np.tile(column.clip(0, 29)[:, None], (20, 1)), atol=1e-4)
