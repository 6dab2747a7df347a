"""Evaluation where an image may have none, one or several classes: loss, average precision, and scores of classes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from training_flax.learn.per_class import ClassScores
from training_flax.learn.steps import Loss, losses_by


class ClassLogits(NamedTuple):
    """Loss and logits of each image."""

    loss: jax.Array  # (batch,) mean over classes of binary cross-entropies
    logits: jax.Array  # (batch, classes)


class WrongLabels(NamedTuple):
    """Images in which a class is missed, or seen where there is none of it."""

    label: int
    missed: bool
    images: int


def make_multi_label_eval_step(
    model: nn.Module, loss: Loss | None = None
) -> Callable[[Any, jax.Array, jax.Array], ClassLogits]:
    """Makes the pure function (variables, images, labels) → `ClassLogits`, with running statistics and no dropout.

    Labels are (batch, classes) of 0 and 1. The loss is the mean of binary cross-entropies, unless a function (logits,
    targets) → losses is given.
    """

    def step(variables: Any, images: jax.Array, labels: jax.Array) -> ClassLogits:
        logits: Any = model.apply(variables, images, train=False)
        targets = labels.astype(logits.dtype)
        if loss is not None:
            return ClassLogits(losses_by(loss, logits, targets), logits)
        return ClassLogits(optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1), logits)

    return step


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Computes the average precision of each class, Σ (recall_n - recall_(n-1)) · precision_n over thresholds n.

    Thresholds are the different scores, from the largest on. This is scikit-learn's `average_precision_score(…,
    average=None)`, without its 0 for classes that no image has.

    Args:
        labels: (images, classes) of 0 and 1.
        scores: (images, classes) logits or probabilities; those that are NaN come last.

    Returns:
        (classes,) float64; NaN for a class that no image has.

    Raises:
        ValueError: labels and scores are not of one shape with two axes.
    """
    if labels.shape != scores.shape or labels.ndim != 2:
        raise ValueError(f"labels and scores must be (images, classes); given {labels.shape} and {scores.shape}")
    return np.array([_average_precision(*columns) for columns in zip(labels.T, scores.T, strict=True)], np.float64)


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    positives = int((labels == 1).sum())
    if not positives:
        return np.nan
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores, kind="stable")
    changes = np.flatnonzero(scores[order[1:]] != scores[order[:-1]])
    ends = np.append(changes, len(order) - 1)  # of images with equal scores
    right = np.cumsum(labels[order] == 1)[ends]
    return float((np.diff(right, prepend=0) * right / (ends + 1)).sum() / positives)


def multi_label_scores(labels: np.ndarray, predictions: np.ndarray) -> ClassScores:
    """Computes precision, recall and F1 of each class, as scikit-learn's `precision_recall_fscore_support`.

    Args:
        labels: (images, classes) of 0 and 1.
        predictions: (images, classes), 1 where the class is predicted; -1 counts as 0.

    Raises:
        ValueError: labels and predictions are not of one shape with two axes.
    """
    if labels.shape != predictions.shape or labels.ndim != 2:
        raise ValueError(
            f"labels and predictions must be (images, classes); given {labels.shape} and {predictions.shape}"
        )
    there, guessed = labels == 1, predictions == 1
    right, predicted, support = (each.sum(0, dtype=np.int64) for each in (there & guessed, guessed, there))
    precision, recall = (right / np.maximum(images, 1) for images in (predicted, support))
    return ClassScores(precision, recall, 2 * right / np.maximum(predicted + support, 1), support, right)


def commonest_wrong(labels: np.ndarray, predictions: np.ndarray) -> WrongLabels | None:
    """Returns the class that is missed, or seen where there is none of it, in most images; None if all are right.

    Of several the first class is taken, and of one class the misses. Images without a prediction, -1, do not count.
    Arguments are those of `multi_label_scores`.
    """
    wrong = np.stack([(labels == 1) & (predictions == 0), (labels == 0) & (predictions == 1)]).sum(1)
    if not wrong.any():
        return None
    label, seen = divmod(int(wrong.T.argmax()), 2)
    return WrongLabels(label, not seen, int(wrong.max()))
