import numpy as np
import pytest

from training_flax import batch_indices, open_dataset


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    dataset, source = open_dataset("digits"), load_digits()
    assert dataset.train.images.shape == (1437, 32, 32, 3)
    assert dataset.test.images.shape == (360, 32, 32, 3)
    assert dataset.train.images.dtype == np.uint8
    images = np.concatenate([dataset.train.images, dataset.test.images])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    np.testing.assert_array_equal(labels, source.target)
    np.testing.assert_array_equal(np.rint(images[:, ::4, ::4, 0] / 255 * 16), source.images)
    for row in range(4):
        np.testing.assert_array_equal(images[:, row::4, row::4, row % 3], images[:, ::4, ::4, 0])
    assert dataset.class_names == tuple("0123456789")


def test_normalisation_is_that_of_the_train_part():
    dataset = open_dataset("digits")
    values = (dataset.train.images / 255 - np.array(dataset.mean)) / np.array(dataset.std)
    np.testing.assert_allclose(values.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(values.std((0, 1, 2)), 1, atol=1e-12)


def test_an_unknown_data_set_is_named():
    with pytest.raises(ValueError, match="unknown data set 'digit'; did you mean 'digits'"):
        open_dataset("digit")


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 5), (10, 3), (7, 7), (5, 12)])
def test_every_example_comes_once_an_epoch(examples, batch_size):
    epochs = 6
    steps = -(-epochs * examples // batch_size)
    sequence = np.concatenate([batch_indices(step, batch_size, examples, 0) for step in range(steps)])
    orders = sequence[: epochs * examples].reshape(epochs, examples)
    np.testing.assert_array_equal(np.sort(orders, 1), np.tile(np.arange(examples), (epochs, 1)))
    assert len({tuple(order) for order in orders}) > 1


def test_the_order_follows_from_seed_and_step_alone():
    batch = batch_indices(1000, 8, 50, 3)
    assert batch.dtype == np.int32
    np.testing.assert_array_equal(batch, batch_indices(1000, 8, 50, 3))
    assert not np.array_equal(batch, batch_indices(1000, 8, 50, 4))
    # A longer batch is two short ones: the order does not know of batches.
    np.testing.assert_array_equal(
        batch_indices(2, 20, 50, 3), np.concatenate([batch_indices(s, 10, 50, 3) for s in (4, 5)])
    )
