import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training_flax.augment.mix import cutmix_box, mix, smooth_labels

mixed_by = jax.jit(mix, static_argnames=("mixup", "cutmix"))


def batch(count, height=8, width=16):
    """Makes a batch whose even examples are black and of class 0, and odd ones white and of class 1."""
    keys = jax.random.split(jax.random.key(0), count)
    labels = jnp.arange(count) % 2
    images = jnp.broadcast_to(labels[:, None, None, None], (count, height, width, 1)).astype(jnp.float32)
    return keys, images, smooth_labels(labels, 2, 0.0)


def own_shares(targets):
    """Returns λ of each example of `batch`."""
    return np.asarray(targets)[np.arange(len(targets)), np.arange(len(targets)) % 2]


def test_targets_are_probabilities():
    labels = jnp.array([0, 4, 2])
    targets = smooth_labels(labels, 5, 0.1)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(targets, optax.smooth_labels(jax.nn.one_hot(labels, 5), 0.1), rtol=1e-6)
    np.testing.assert_array_equal(smooth_labels(labels, 5, 0.0), np.eye(5)[labels])


def test_mixup_averages_images_by_the_shares_of_the_targets():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((6, 3, 4, 2)), jnp.float32)
    targets = smooth_labels(jnp.arange(6), 6, 0.0)
    mixed, mixed_targets = mixed_by(jax.random.split(jax.random.key(0), 6), images, targets, mixup=1.0, cutmix=0.0)
    np.testing.assert_allclose(mixed_targets.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed, np.einsum("bc,chwk->bhwk", mixed_targets, images), atol=1e-6)
    # Only neighbours mix.
    pairs = np.kron(np.eye(3), np.ones((2, 2)))
    assert (np.asarray(mixed_targets)[pairs == 0] == 0).all()
    assert (np.asarray(mixed_targets)[pairs == 1] > 0).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_of_mixup_follow_beta(alpha):
    count = 4000
    _, targets = mixed_by(*batch(count, 1, 1), mixup=alpha, cutmix=0.0)
    shares = own_shares(targets)
    variance = 1 / (4 * (2 * alpha + 1))
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    assert abs(shares.mean() - 1 / 2) < 4 * np.sqrt(variance / count)
    assert abs(shares.var() - variance) < 4 * np.sqrt((fourth - variance**2) / count)
    # Neighbours draw independently: a correlation of 2000 pairs has a standard error of 1 / sqrt(2000).
    assert abs(np.corrcoef(shares[::2], shares[1::2])[0, 1]) < 4 / np.sqrt(2000)


@pytest.mark.slow
def test_cutmix_shares_are_those_of_the_pixels():
    images, targets = mixed_by(*batch(400), mixup=0.0, cutmix=1.0)
    assert set(np.unique(images)) == {0.0, 1.0}
    white = np.asarray(images).mean((1, 2, 3))
    np.testing.assert_array_equal(white, np.asarray(targets)[:, 1])
    np.testing.assert_array_equal(np.asarray(targets).sum(1), 1)
    assert len(np.unique(own_shares(targets))) > 20


def test_boxes_are_rectangles_about_a_uniform_centre():
    keys = jax.random.split(jax.random.key(0), 2000)
    boxes = jax.jit(jax.vmap(lambda key: cutmix_box(key, 8, 16, jnp.float32(0.25))))
    masks = np.asarray(boxes(keys))
    rows, columns = masks.any(2), masks.any(1)
    np.testing.assert_array_equal(masks, rows[:, :, None] & columns[:, None])
    # The box has half of 8 rows and of 16 columns, two and four on each side of its centre, within the border.
    assert rows.sum(1).max() == 4
    assert columns.sum(1).max() == 8
    uncut = (rows.sum(1) == 4) & (columns.sum(1) == 8)
    # The box is whole for 5 of 8 rows of its centre, and for 9 of 16 columns.
    share = 5 / 8 * 9 / 16
    assert abs(uncut.mean() - share) < 4 * np.sqrt(share * (1 - share) / 2000)


def test_no_area_is_no_box():
    assert not cutmix_box(jax.random.key(0), 8, 8, jnp.float32(0)).any()


def test_with_both_on_half_the_examples_are_cut():
    images, targets = mixed_by(*batch(2000), mixup=1.0, cutmix=1.0)
    images = np.asarray(images)
    np.testing.assert_allclose(images.mean((1, 2, 3)), np.asarray(targets)[:, 1], atol=1e-6)
    averaged = ((images > 0) & (images < 1)).all((1, 2, 3))
    np.testing.assert_array_equal(averaged, ~((images == 0) | (images == 1)).all((1, 2, 3)))
    assert abs(averaged.sum() - 1000) < 4 * np.sqrt(500)


@pytest.mark.slow
@pytest.mark.parametrize("amounts", [dict(mixup=0.4, cutmix=0.0), dict(mixup=0.4, cutmix=1.0)])
def test_a_pair_is_mixed_alike_in_any_batch_and_place(amounts):
    whole = batch(8)
    images, targets = mixed_by(*whole, **amounts)
    order = np.array([4, 5, 0, 1])
    some_images, some_targets = mixed_by(*(x[order] for x in whole), **amounts)
    np.testing.assert_array_equal(some_images, images[order])
    np.testing.assert_array_equal(some_targets, targets[order])


def test_with_both_off_nothing_changes():
    _, images, targets = whole = batch(3)
    assert mix(*whole, mixup=0.0, cutmix=0.0) == (images, targets)


def test_says_that_the_batch_must_be_even():
    with pytest.raises(ValueError, match=r"^mixup and CutMix need an even batch; given 3$"):
        mix(*batch(3), mixup=0.2, cutmix=0.0)
