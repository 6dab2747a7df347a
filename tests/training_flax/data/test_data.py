import subprocess
import sys

import numpy as np
import pytest

from training_flax import Split, batch_indices, open_dataset
from training_flax.data.dataset import StreamedSplit


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
    assert dataset.image_shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["digits", "fake:5x7x1:3:40"])
def test_normalisation_is_that_of_the_train_split(name):
    dataset = open_dataset(name)
    values = (dataset.train.images / 255 - np.array(dataset.mean)) / np.array(dataset.std)
    np.testing.assert_allclose(values.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(values.std((0, 1, 2)), 1, atol=1e-12)


def test_fake_images_are_seeded_noise():
    dataset, again = open_dataset("fake:5x7x1:3:40"), open_dataset("fake:5x7x1:3:40")
    assert dataset.train.images.shape == (40, 5, 7, 1)
    assert dataset.test.images.shape == (256, 5, 7, 1)
    assert dataset.class_names == ("0", "1", "2")
    assert np.ptp(np.bincount(dataset.train.labels)) <= 1
    np.testing.assert_array_equal(dataset.train.images, again.train.images)
    assert len({image.tobytes() for part in (dataset.train, dataset.test) for image in part.images}) == 296
    # Uniform bytes have a mean of 127.5, whose standard error is 74 / sqrt(10,360) = 0.7.
    assert abs(np.concatenate([dataset.train.images, dataset.test.images]).mean() - 127.5) < 4 * 0.75
    assert len(open_dataset("fake:2x2x3:10").train.labels) == 1024


def test_what_does_not_fit_into_memory_is_streamed(monkeypatch):
    whole = open_dataset("fake:6x6x1:3:40")
    monkeypatch.setattr("training_flax.data.source.MEMORY_LIMIT", 256 * 36 - 1)
    dataset = open_dataset("fake:6x6x1:3:40")
    assert isinstance(whole.train, Split)
    assert isinstance(dataset.train, StreamedSplit)
    assert isinstance(dataset.test, StreamedSplit)
    assert dataset.image_shape == dataset.train.image_shape == dataset.test.image_shape == (6, 6, 3)
    np.testing.assert_array_equal(dataset.train.labels, whole.train.labels)
    for index in (0, 39):
        np.testing.assert_array_equal(dataset.train.read(index), whole.train.images[index].repeat(3, -1))


def test_the_size_asked_for_is_given():
    assert isinstance(open_dataset("fake:6x6x3:3:40", image_size=6).train, Split)
    dataset = open_dataset("fake:6x7x3:3:40", image_size=6)
    assert dataset.image_shape == (6, 6, 3)
    assert dataset.train.read(0).shape == (6, 7, 3)


def test_a_channel_that_never_varies_can_be_divided_by():
    from training_flax.data.source import channel_moments

    assert channel_moments([np.full((2, 3, 3, 1), 51, np.uint8)]) == ((0.2,), (1.0,))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "unknown data set 'digit'; did you mean 'digits'?"),
        ("cifar10", {}, "unknown data set 'cifar10'; allowed: 'digits', 'fake', 'folder', 'csv', 'tfds'"),
        ("digits:2", {}, "data set 'digits' takes nothing more; given 'digits:2'"),
        ("fake", {}, "given 'fake:'"),
        ("fake:32x32x2:10", {}, "'fake:HxWxC:CLASSES' or 'fake:HxWxC:CLASSES:TRAIN' with 1 or 3 channels"),
        ("fake:0x32x3:10", {}, "given 'fake:0x32x3:10'"),
        ("digits", {"image_size": 0}, "image_size must be a positive integer; given 0"),
        ("digits", {"default_image_size": 1.5}, "default_image_size must be a positive integer; given 1.5"),
        ("digits", {"data_dir": "x"}, "data_dir is where data sets of TFDS are, and 'digits' is none; given 'x'"),
    ],
)
def test_what_is_wrong_with_a_name_takes_one_line(name, options, message):
    with pytest.raises(ValueError) as error:
        open_dataset(name, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_libraries_are_loaded_by_those_who_need_them():
    code = """
import sys, training_flax
heavy = {"sklearn", "tensorflow_datasets", "tensorflow"}
print(sorted(heavy & set(sys.modules)))
training_flax.open_dataset("fake:2x2x3:2")
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


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
    # A long batch equals two short ones, because the order does not depend on the batch size.
    np.testing.assert_array_equal(
        batch_indices(2, 20, 50, 3), np.concatenate([batch_indices(s, 10, 50, 3) for s in (4, 5)])
    )
