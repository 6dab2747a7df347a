"""Precision, recall and F1 of each class, and the classes that are confused: functions of labels and predictions."""

from typing import NamedTuple

import numpy as np


class ClassScores(NamedTuple):
    """Scores of each class, each array (classes,).

    Precision is the share of the images predicted to be of a class that are of it; recall is the share of the images
    of a class that are predicted to be of it; F1 is their harmonic mean. A share of no images is 0, as in
    scikit-learn's `precision_recall_fscore_support(…, zero_division=0)`: the precision of a class that is never
    predicted, the recall of a class without images, and the F1 of a class that is never right.
    """

    precision: np.ndarray  # float64
    recall: np.ndarray  # float64
    f1: np.ndarray  # float64
    support: np.ndarray  # int64, the images of the class
    right: np.ndarray  # int64, the images of the class that are predicted to be of it


class Confusion(NamedTuple):
    """Images of one class that are predicted to be of another."""

    truth: int
    prediction: int
    images: int


def class_scores(labels: np.ndarray, predictions: np.ndarray, classes: int) -> ClassScores:
    """Computes the scores of each class.

    Args:
        labels: (images,) integers from 0 to classes - 1.
        predictions: (images,) integers; -1, which is wrong, where no class is predicted.
        classes: the number of classes.

    Raises:
        ValueError: labels and predictions differ in number, or are outside of these ranges.
    """
    labels, predictions = _checked(labels, predictions, classes)
    support = np.bincount(labels, minlength=classes)
    predicted = np.bincount(predictions[predictions >= 0], minlength=classes)
    right = np.bincount(labels[labels == predictions], minlength=classes)
    precision, recall = (right / np.maximum(images, 1) for images in (predicted, support))
    # 2 P R / (P + R) in whole numbers, which needs no rule of its own where both are 0.
    f1 = 2 * right / np.maximum(predicted + support, 1)
    return ClassScores(precision, recall, f1, support, right)


def worst_class(scores: ClassScores) -> int | None:
    """Returns the class of whose images the smallest share is right, the lowest recall; None if no class has images.

    Classes without images do not count. Of several the one with the lowest F1 is taken, then the one with the most
    images, then the first.
    """
    there = np.flatnonzero(scores.support)
    order = np.lexsort((-scores.support[there], scores.f1[there], scores.recall[there]))
    return int(there[order[0]]) if len(there) else None


def commonest_confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> Confusion | None:
    """Returns the pair of a class and a wrong prediction with the most images; None if no prediction is wrong.

    Of several pairs the first in the order of the classes is taken. Predictions of no class, -1, do not count.
    Arguments and errors are those of `class_scores`.
    """
    labels, predictions = _checked(labels, predictions, classes)
    wrong = (labels != predictions) & (predictions >= 0)
    pairs, images = np.unique(labels[wrong] * classes + predictions[wrong], return_counts=True)
    if not len(pairs):
        return None
    truth, prediction = divmod(int(pairs[images.argmax()]), classes)
    return Confusion(truth, prediction, int(images.max()))


def _checked(labels: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as int64, in which pairs of classes fit; raises ValueError if they are not allowed."""
    labels, predictions = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(f"labels and predictions must be of one length; given {labels.shape} and {predictions.shape}")
    for name, values, least in (("labels", labels, 0), ("predictions", predictions, -1)):
        if len(values) and not least <= values.min() <= values.max() < classes:
            raise ValueError(
                f"{name} must be from {least} to {classes - 1}; given from {values.min()} to {values.max()}"
            )
    return labels, predictions
