"""Data sets from arrays: types and shapes that are taken, moments, hashes, and errors of one line."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from training_flax import Batches, Dataset, Split, TrainConfig, dataset_from_arrays, open_dataset
from training_flax.given.data import open_given

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (12, 4, 5, 3), np.uint8), np.arange(12) % 3
TEST = RNG.integers(0, 256, (6, 4, 5, 3), np.uint8), np.arange(6) % 3
FLOATS = RNG.uniform(0, 1, (12, 4, 5, 3)).astype(np.float32)

SAME = {
    "as they are": (IMAGES, LABELS),
    "JAX": (jnp.asarray(IMAGES), jnp.asarray(LABELS)),
    "int64": (IMAGES.astype(np.int64), LABELS.astype(np.uint8)),
    "float32 from 0 to 1": (IMAGES.astype(np.float32) / 255, LABELS),
    "float64 from 0 to 1": (IMAGES / 255, LABELS),
    "labels of Keras": (IMAGES, LABELS[:, None]),
    "lists of labels": (IMAGES, np.asarray(LABELS.tolist())),
    "backwards in memory": (IMAGES[::-1].copy()[::-1], LABELS[::-1].copy()[::-1]),
}


@pytest.mark.parametrize("train", SAME.values(), ids=SAME)
def test_the_same_images_in_any_type_are_the_same_data(train):
    data = dataset_from_arrays(train, TEST)
    np.testing.assert_array_equal(data.train.images, IMAGES)
    np.testing.assert_array_equal(data.train.labels, LABELS)
    assert (data.train.images.dtype, data.train.labels.dtype) == (np.uint8, np.int32)
    assert data.train_sum == dataset_from_arrays((IMAGES, LABELS), TEST).train_sum
    assert (data.class_names, data.image_shape, data.pixels) == (("0", "1", "2"), (4, 5, 3), True)


def test_moments_are_those_of_the_opened_data_set():
    digits = open_dataset("digits")
    data = dataset_from_arrays(digits.train, digits.test)
    assert (data.mean, data.std, data.class_names) == (digits.mean, digits.std, digits.class_names)


def test_moments_of_floating_point_are_those_of_its_values():
    data = dataset_from_arrays((FLOATS, LABELS), TEST)
    assert data.train.images.dtype == np.float32
    values = data.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, values.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(data.std, values.std((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(values, FLOATS, rtol=2**-22)


def test_float64_keeps_its_values_for_a_network_of_float64():
    images = RNG.uniform(0, 1, (3, 4, 4, 1))
    data = open_given(((images, LABELS[:3]), (images, LABELS[:3])), TrainConfig("resnet20", dtype="float64")).dataset
    np.testing.assert_allclose(data.train.images / 255, images, rtol=2**-51)


def test_grey_images_get_their_channel():
    grey = IMAGES[..., 0]
    data = dataset_from_arrays((grey, LABELS), (TEST[0][..., 0], TEST[1]))
    assert data.image_shape == (4, 5, 1)
    np.testing.assert_array_equal(data.train.images[..., 0], grey)


def test_values_of_any_scale_need_a_mean_and_std_of_the_users():
    normalised = 3 * FLOATS - 1.5
    with pytest.raises(ValueError, match=r"must be pixels from 0 to 1; given from -1.*name mean and std"):
        dataset_from_arrays((normalised, LABELS), TEST)
    data = dataset_from_arrays((normalised, LABELS), TEST, mean=[0, 0, 0], std=[1, 1, 1])
    assert (data.mean, data.std, data.pixels) == ((0, 0, 0), (1, 1, 1), False)
    np.testing.assert_allclose(data.train.images / 255, normalised, rtol=2**-22)


CHANGED = {
    "a pixel": (np.where(np.arange(12)[:, None, None, None] == 7, IMAGES ^ 1, IMAGES), LABELS),
    "a label": (IMAGES, np.where(np.arange(12) == 7, (LABELS + 1) % 3, LABELS)),
    "the order": (IMAGES[::-1], LABELS[::-1]),
    "the shape": (IMAGES.swapaxes(1, 2), LABELS),
}


@pytest.mark.parametrize("train", CHANGED.values(), ids=CHANGED)
def test_another_content_has_another_hash(train):
    test = (TEST[0].swapaxes(1, 2), TEST[1]) if train[0].shape != IMAGES.shape else TEST
    assert dataset_from_arrays(train, test).train_sum != dataset_from_arrays((IMAGES, LABELS), TEST).train_sum


WRONG = {
    "no images": ((IMAGES[:0], LABELS[:0]), "one or more; given none"),
    "rank 2": ((IMAGES.reshape(12, -1), LABELS), r"rank 4.*given shape \(12, 60\)"),
    "channels first": ((np.zeros((12, 3, 8, 8), np.uint8), LABELS), "images.transpose"),
    "other numbers": ((IMAGES, LABELS[:5]), "as many; given 12 and 5"),
    "negative pixels": ((IMAGES.astype(int) - 1, LABELS), "from 0 to 255; given from -1"),
    "16 bits": ((IMAGES.astype(np.uint16) * 256, LABELS), "from 0 to 255; given from 0 to 6"),
    "0 to 255 in floating point": ((IMAGES.astype(np.float32), LABELS), "pixels from 0 to 1; given from 0 to 255"),
    "NaN": ((np.where(FLOATS > 0.9, np.nan, FLOATS), LABELS), "finite"),
    "infinite": ((np.where(FLOATS > 0.9, np.inf, FLOATS), LABELS), "finite"),
    "complex": ((FLOATS.astype(np.complex64), LABELS), "integers or in floating point; given complex64"),
    "texts": ((IMAGES, LABELS.astype(str)), "integers from 0; given <U"),
    "labels in floating point": ((IMAGES, LABELS.astype(float)), "integers from 0; given float64"),
    "one-hot labels": ((IMAGES, np.eye(3)[LABELS]), r"given shape \(12, 3\): use labels.argmax\(-1\)"),
    "labels from -1": ((IMAGES, LABELS - 1), "given from -1 to 1"),
    "other shapes in the test part": ((IMAGES[:, :3], LABELS), r"one shape; given \(3, 5, 3\) and \(4, 5, 3\)"),
}


@pytest.mark.parametrize(("train", "said"), WRONG.values(), ids=WRONG)
def test_wrong_arrays_end_in_one_line(train, said):
    with pytest.raises(ValueError, match=said) as error:
        dataset_from_arrays(train, TEST)
    assert "\n" not in str(error.value)


def test_names_and_numbers_of_classes():
    data = dataset_from_arrays((IMAGES, LABELS), TEST, class_names=["a", "b", "c", "d"])
    assert data.class_names == ("a", "b", "c", "d")
    with pytest.raises(ValueError, match="from 0 to 1, for 2 classes; given 2"):
        dataset_from_arrays((IMAGES, LABELS), TEST, class_names=["a", "b"])
    given = open_given(((IMAGES, LABELS), TEST), TrainConfig("resnet20", num_classes=7))
    assert len(given.dataset.class_names) == 7
    for mean, std in (([0.5], [0.5]), ([0.5] * 3, [0.5, 0.5, 0]), ([np.nan] * 3, [1] * 3)):
        with pytest.raises(ValueError, match="mean and std must be 3 numbers"):
            dataset_from_arrays((IMAGES, LABELS), TEST, mean=mean, std=std)
    with pytest.raises(ValueError, match="mean and std, or neither"):
        dataset_from_arrays((IMAGES, LABELS), TEST, mean=[0.5] * 3)


DATA = dataset_from_arrays((IMAGES, LABELS), TEST)
WRONG_DATA = {
    "a name": ("digits", {}, "given 'str'"),
    "arrays without a test part": ((IMAGES, LABELS), {}, "a train and a test part"),
    "three parts": (((IMAGES, LABELS), TEST, TEST), {}, "given 'tuple'"),
    "a dict": ({"train": (IMAGES, LABELS)}, {}, "given 'dict'"),
    "a name beside": (DATA, {"data": "folder:photos"}, "not both; the config has 'folder:photos'"),
    "a folder": (DATA, {"data_dir": "x"}, "data_dir is for data that are opened by name"),
    "a split": (DATA, {"train_split": "train"}, "train_split is for data"),
    "strict": (DATA, {"strict": True}, "strict is for data"),
    "another size": (DATA, {"image_size": 8}, "image_size must be that of the images given, 4×5; given 8"),
    "labels of 64 bits": (
        replace(DATA, train=Split(IMAGES, LABELS)),
        {},
        r"\(examples,\) int32; dataset_from_arrays converts others",
    ),
    "pixels from 0 to 1": (replace(DATA, train=Split(FLOATS, DATA.train.labels)), {}, "must be from 0 to 255"),
    "too few names": (replace(DATA, class_names=("a",)), {}, "from 0 to 0, for 1 classes; given 2"),
    "no std": (replace(DATA, std=(0.0,) * 3), {}, "std positive"),
}


@pytest.mark.parametrize(("data", "options", "said"), WRONG_DATA.values(), ids=WRONG_DATA)
def test_wrong_data_end_in_one_line(data, options, said):
    with pytest.raises(ValueError, match=said) as error:
        open_given(data, TrainConfig("resnet20", **options))
    assert "\n" not in str(error.value)


def test_a_data_set_is_known_by_its_content_and_its_own_name():
    mine = Dataset("mine", DATA.train, DATA.test, ("a", "b", "c"), DATA.mean, DATA.std)
    given = open_given(mine, TrainConfig("resnet20"))
    assert (given.dataset.name, given.batch_size) == ("dataset:mine", None)
    assert given.dataset.train_sum == DATA.train_sum
    assert open_given(DATA, TrainConfig("resnet20")).dataset.name == "arrays"
    with pytest.raises(ValueError, match="for batches give Batches"):
        batches = open_given(Batches([(IMAGES, LABELS)], TEST), TrainConfig("resnet20")).dataset
        open_given(batches, TrainConfig("resnet20"))
