"""Scores of classes beside scikit-learn's, and the worst class and commonest confusion by their definitions."""

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from training_flax.learn.per_class import Confusion, class_scores, commonest_confusion, worst_class

RNG = np.random.default_rng(0)


def drawn(classes, images, right):
    """Labels and predictions, a share of them right; the last class has no images, the one before no predictions."""
    labels = RNG.integers(0, max(classes - 1, 1), images)
    guesses = RNG.integers(0, classes, images)
    guesses[guesses == classes - 2] = 0
    return labels, np.where((RNG.random(images) < right) & (labels != classes - 2), labels, guesses)


DRAWN = {
    f"{classes} classes, {images} images, {right}": drawn(classes, images, right)
    for classes, images in [(3, 40), (10, 360), (1000, 3000)]
    for right in (0.0, 0.5, 0.97)
}
PAIRS = DRAWN | {
    "all right": (np.arange(5), np.arange(5)),
    "all wrong": (np.array([0, 1, 2]), np.array([1, 2, 0])),
    "all of one class": (np.zeros(4, int), np.zeros(4, int)),
    "one class predicted": (np.array([0, 1, 2, 2]), np.zeros(4, int)),
    "some without a prediction": (np.array([0, 0, 1, 1, 2]), np.array([0, -1, -1, 1, 0])),
    "none with a prediction": (np.array([0, 1]), np.array([-1, -1])),
    "no images": (np.zeros(0, int), np.zeros(0, int)),
}


@pytest.mark.parametrize("case", [case for case in PAIRS if case != "no images"])
def test_scores_are_those_of_scikit_learn(case):
    labels, predictions = PAIRS[case]
    classes = int(max([3, *labels + 1, *predictions + 1]))
    scores = class_scores(labels, predictions, classes)
    expected = precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0)
    for ours, theirs in zip(scores, expected, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=4 * np.finfo(float).eps, atol=0)
    assert scores.right.sum() == (labels == predictions).sum()


def test_without_images_all_scores_are_zero():
    """scikit-learn takes no empty arrays."""
    assert all(not values.any() for values in class_scores(*PAIRS["no images"], 3))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_a_thousand_classes_in_any_type(dtype):
    """Pairs of classes are counted in 64 bits, whatever the type of the labels."""
    labels = np.array([100, 100, 126], dtype)
    assert commonest_confusion(labels, np.array([101, 101, 0], dtype), 1000) == Confusion(100, 101, 2)


@pytest.mark.parametrize("case", [case for case in PAIRS if case != "no images"])
def test_the_worst_class_has_images_and_the_lowest_recall(case):
    labels, predictions = PAIRS[case]
    classes = int(max([3, *labels + 1, *predictions + 1]))
    scores = class_scores(labels, predictions, classes)
    worst = worst_class(scores)
    assert scores.support[worst] > 0
    assert scores.recall[worst] == min((predictions[labels == label] == label).mean() for label in set(labels.tolist()))


def test_of_equal_classes_the_worst_has_the_lowest_f1_and_then_the_most_images():
    labels, predictions = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 0, 2, 0])
    assert worst_class(class_scores(labels, predictions, 3)) == 0  # half of each is right, and 0 is guessed too often
    labels, predictions = np.array([0, 1, 2, 2, 3, 3]), np.array([3, 0, 0, 0, 0, 0])
    assert worst_class(class_scores(labels, predictions, 5)) == 2
    assert worst_class(class_scores(np.zeros(0, int), np.zeros(0, int), 5)) is None


@pytest.mark.parametrize("case", PAIRS)
def test_the_commonest_confusion_is_the_most_frequent_wrong_pair(case):
    labels, predictions = PAIRS[case]
    classes = int(max([3, *labels + 1, *predictions + 1]))
    pairs = Counter((t, p) for t, p in zip(labels.tolist(), predictions.tolist(), strict=True) if t != p and p >= 0)
    found = commonest_confusion(labels, predictions, classes)
    if not pairs:
        assert found is None
        return
    most = max(pairs.values())
    assert found == (*min(pair for pair, images in pairs.items() if images == most), most)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0], "labels and predictions must be of one length; given (2,) and (1,)"),
        ([0, 3], [0, 1], "labels must be from 0 to 2; given from 0 to 3"),
        ([-1, 1], [0, 1], "labels must be from 0 to 2; given from -1 to 1"),
        ([0, 1], [0, 3], "predictions must be from -1 to 2; given from 0 to 3"),
        ([0, 1], [0, -2], "predictions must be from -1 to 2; given from -2 to 0"),
    ],
)
@pytest.mark.parametrize("function", [class_scores, commonest_confusion])
def test_wrong_labels_are_named(function, labels, predictions, message):
    with pytest.raises(ValueError) as error:
        function(np.array(labels), np.array(predictions), 3)
    assert str(error.value) == message
