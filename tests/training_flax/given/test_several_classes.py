"""Labels of several classes an image that are passed to `fit`: arrays, a data set, batches; and what is refused."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from training_flax import Batches, Split, TrainConfig, dataset_from_arrays
from training_flax.data.dataset import StreamedSplit
from training_flax.data.loader import UnreadableImage
from training_flax.data.source import sum_of_labels
from training_flax.given.data import open_given

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 4, 5, 3), np.uint8)
LABELS = (RNG.random((12, 3)) < 0.5).astype(np.uint8)
TEST = IMAGES[:6], LABELS[:6]
CONFIG = TrainConfig("resnet20")
DATA = dataset_from_arrays((IMAGES, LABELS), TEST)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64, bool, jnp.int32])
def test_labels_of_any_integers_are_the_same_data(kind):
    labels = jnp.asarray(LABELS, kind) if kind is jnp.int32 else LABELS.astype(kind)
    data = dataset_from_arrays((IMAGES, labels), TEST)
    np.testing.assert_array_equal(data.train.labels, LABELS)
    assert data.train.labels.dtype == np.uint8
    assert (data.multi_label, data.class_names, data.train_sum) == (True, ("0", "1", "2"), DATA.train_sum)


def test_other_labels_have_another_hash():
    assert dataset_from_arrays((IMAGES, 1 - LABELS), TEST).train_sum != DATA.train_sum
    # The same numbers in another shape are other labels.
    assert sum_of_labels(LABELS.reshape(6, 6)) != sum_of_labels(LABELS.reshape(9, 4))


def test_names_are_those_of_the_columns():
    data = dataset_from_arrays((IMAGES, LABELS), TEST, class_names=("a", "b", "c"))
    assert data.class_names == ("a", "b", "c")
    assert [data.named(np.array(label)) for label in ([1, 0, 1], [0, 0, 0], [0, 1, 0])] == ["a|c", "", "b"]
    assert data.named(np.array([1, 1, 0]), " + ") == "a + b"
    assert data.named(np.array([-1, -1, -1])) == ""
    assert data.named(np.int32(1)) == "b"
    with pytest.raises(ValueError, match="labels must have a column for each of 2 classes; given 3"):
        dataset_from_arrays((IMAGES, LABELS), TEST, class_names=("a", "b"))


WRONG = {
    "floating point": (
        LABELS.astype(float),
        r"given shape \(12, 3\): use labels.argmax\(-1\); of several classes an image they are integers of 0 and 1; "
        "given float64",
    ),
    "NaN": (np.where(LABELS == 1, np.nan, 0), "integers of 0 and 1; given float64"),
    "texts": (LABELS.astype(str), "integers of 0 and 1; given <U"),
    "a 2": (LABELS * 2, "labels of several classes an image must be 0 and 1; given from 0 to 2"),
    "-1 and 1": (LABELS.astype(int) * 2 - 1, "must be 0 and 1; given from -1 to 1"),
    "other numbers": (LABELS[:5], "as many; given 12 and 5"),
    "no columns": (LABELS[:, :0], r"given shape \(12, 0\)"),
    "three axes": (LABELS[..., None], r"given shape \(12, 3, 1\)$"),
    "other columns in the test part": (LABELS[:, :2], r"must have one form; given \(12, 2\), \(6, 3\)"),
    "one class an image in the train part": (LABELS[:, 0], r"must have one form; given \(12,\), \(6, 3\)"),
}


@pytest.mark.parametrize(("labels", "said"), WRONG.values(), ids=WRONG)
def test_wrong_labels_end_in_one_line(labels, said):
    with pytest.raises(ValueError, match=said) as error:
        dataset_from_arrays((IMAGES, labels), TEST)
    assert "\n" not in str(error.value)


WRONG_SPLITS = {
    "a 2": (LABELS * 2, "train labels must be 0 and 1; given 2"),
    "int32": (LABELS.astype(np.int32), r"those of several classes an image are \(examples, classes\) uint8"),
    "none": (LABELS[:0], "train labels of a Dataset must be"),
    "other columns": (LABELS[:, :2], r"must have one form; given \(12, 2\), \(6, 3\)"),
}


@pytest.mark.parametrize(("labels", "said"), WRONG_SPLITS.values(), ids=WRONG_SPLITS)
def test_wrong_labels_of_a_data_set_end_in_one_line(labels, said):
    with pytest.raises(ValueError, match=said) as error:
        open_given(replace(DATA, train=Split(IMAGES, labels)), CONFIG)
    assert "\n" not in str(error.value)


def test_a_data_set_is_known_by_its_labels():
    split = StreamedSplit(LABELS, (4, 4, 3), lambda index: IMAGES[index])
    mine = replace(DATA, name="mine", train=split, test=replace(split, labels=LABELS[:6]))
    given = open_given(mine, CONFIG).dataset
    assert (
        given.train_labels
        != open_given(replace(mine, train=replace(split, labels=1 - LABELS)), CONFIG).dataset.train_labels
    )
    assert given.multi_label


def test_a_validation_part_is_drawn_with_its_labels():
    given = open_given(((IMAGES, LABELS), TEST), replace(CONFIG, validation_share=0.25)).dataset
    together = [*zip(given.train.images, given.train.labels, strict=True)]
    together += [*zip(given.validation.images, given.validation.labels, strict=True)]
    # Of five, four and six images of the classes a quarter, rounded.
    np.testing.assert_array_equal(given.validation.labels.sum(0), [1, 1, 2])
    expected = {image.tobytes(): label.tolist() for image, label in zip(IMAGES, LABELS, strict=True)}
    assert {image.tobytes(): label.tolist() for image, label in together} == expected


def batches(labels=LABELS, size=4):
    return [(IMAGES[start : start + size], labels[start : start + size]) for start in range(0, 12, size)]


def test_batches_have_several_classes_too():
    given = open_given(Batches(batches(), [(IMAGES[:6], LABELS[:6])]), CONFIG)
    data = given.dataset
    assert (data.multi_label, given.batch_size, data.class_names) == (True, 4, ("0", "1", "2"))
    assert data.train.labels.shape == (0, 3)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in data.train.batches()]), LABELS)
    # The last batch is filled up with images of the one before.
    (*_, last) = open_given(Batches(batches(size=5), TEST), CONFIG).dataset.train.batches()
    np.testing.assert_array_equal(last[1], LABELS[[10, 11, 5, 6, 7]])
    with pytest.raises(ValueError, match="class_weights 'balanced' needs all train labels"):
        open_given(Batches(batches(), TEST), replace(CONFIG, class_weights="balanced"))


def test_batches_of_another_form_are_refused():
    with pytest.raises(ValueError, match=r"must have one form; given \(6, 3\), \(4,\)"):
        open_given(Batches(batches(LABELS[:, 0]), TEST), CONFIG)
    with pytest.raises(ValueError, match=r"^test batch 2: labels must be as those of the first; given shape \(2,\)$"):
        open_given(Batches(batches(), [(IMAGES[:4], LABELS[:4]), (IMAGES[:2], LABELS[:2, 0])]), CONFIG)
    # Mean and std come from the first images; a batch behind them is seen when it comes.
    late = batches()
    late[2] = late[2][0], LABELS[8:, 0]
    given = open_given(Batches(late, TEST), replace(CONFIG, mean=(0.5,) * 3, std=(0.5,) * 3)).dataset
    with pytest.raises(UnreadableImage, match=r"^train batch 3: labels must be \(batch, 3\), as those of the first"):
        list(given.train.batches())
