"""The mistakes of a finished run: predictions.csv, mistakes.png, and the lines that name the worst of them."""

import csv
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common_flax.files import open_regular, whole_file
from common_flax.terminal import plain_text
from training_flax.data.dataset import AnySplit, BatchedSplit, Dataset, Split
from training_flax.data.loader import Reader
from training_flax.learn.evaluation import Evaluation
from training_flax.learn.multi_label import commonest_wrong, multi_label_scores
from training_flax.learn.per_class import ClassScores, class_scores, commonest_confusion, worst_class
from training_flax.plots.grids import draw_mistakes

PREDICTIONS, MISTAKES = "predictions.csv", "mistakes.png"
COLUMNS = ("image", "truth", "guess", "probability", "rank")
DRAWN = 24  # mistakes
DRAWN_BYTES = 3 * 230**2  # of an image in the picture, where large ones have fewer pixels
TEXTS_BYTES = 200_000  # of all that stands around them
TOP_FIVE = 5  # top-5 accuracy is of more classes than these
MOST_COLUMNS = 1_000  # of probabilities in predictions.csv
MOST_SCORED = 50_000  # classes in summary.json; readers refuse a JSON file with a million fields


def scores_in_summary(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """Returns the entries of summary.json about the mistakes.

    They are "top5_accuracy" where there are more than five classes, and "per_class": precision, recall, f1 and support
    of each class by its name, see `ClassScores`. Of classes with equal names the later ones have their number behind.
    Where an image may have several classes, there are "mean_average_precision" and each class's average_precision, null
    for one that no image has, in place of top-5 accuracy.
    """
    names, precisions = dataset.class_names, evaluation.average_precision
    entries: dict[str, Any] = {"mean_average_precision": evaluation.mean_average_precision}
    if precisions is None:
        entries = {"top5_accuracy": evaluation.top(TOP_FIVE)} if len(names) > TOP_FIVE else {}
    if len(names) > MOST_SCORED:
        return entries
    scores, per_class = _scores(evaluation, dataset), dict[str, Any]()
    for label, (precision, recall, f1, support, _) in enumerate(zip(*map(np.ndarray.tolist, scores), strict=True)):
        name = names[label] if names[label] not in per_class else f"{names[label]} (class {label})"
        per_class[name] = {"precision": precision, "recall": recall, "f1": f1, "support": support}
        if precisions is not None:
            per_class[name]["average_precision"] = float(precisions[label]) if support else None
    return entries | {"per_class": per_class}


def lines_about(evaluation: Evaluation, dataset: Dataset) -> list[str]:
    """Returns the lines for the terminal: top-5 accuracy, the worst class, the commonest confusion or wrong label."""
    if evaluation.average_precision is not None:
        return _lines_about_several(evaluation, evaluation.average_precision, dataset)
    names, labels, classes = dataset.class_names, dataset.test.labels, len(dataset.class_names)
    lines = [f"top-5 accuracy {100 * evaluation.top(TOP_FIVE):.2f} %"] if classes > TOP_FIVE else []
    scores = _scores(evaluation, dataset)
    confusion = commonest_confusion(labels, evaluation.predictions, classes)
    label = worst_class(scores)
    if label is not None and scores.right.sum() < len(labels):
        found = f"{scores.right[label]:,} of {_images(int(scores.support[label]))} right"
        lines.append(f"worst class {names[label]!r}: {found}, F1 {100 * scores.f1[label]:.2f} %")
    if confusion is not None:
        truth, guess = names[confusion.truth], names[confusion.prediction]
        of = f"{confusion.images:,} of {_images(int(scores.support[confusion.truth]))}"
        lines.append(f"commonest confusion: {truth!r} taken for {guess!r}, {of}")
    return lines


def _lines_about_several(evaluation: Evaluation, precisions: np.ndarray, dataset: Dataset) -> list[str]:
    names, labels, scores = dataset.class_names, dataset.test.labels, _scores(evaluation, dataset)
    if evaluation.accuracy == 1 or not scores.support.any():
        return []
    label = int(np.nanargmin(precisions))
    found = f"{scores.right[label]:,} of {_images(int(scores.support[label]))} found"
    told = f"average precision {100 * precisions[label]:.2f} %, {found}, F1 {100 * scores.f1[label]:.2f} %"
    lines = [f"worst class {names[label]!r}: {told}"]
    if (wrong := commonest_wrong(labels, evaluation.predictions)) is not None:
        there = int(scores.support[wrong.label])
        of = _images(there if wrong.missed else len(labels) - there)
        what = f"missed in {wrong.images:,} of {of}" if wrong.missed else f"seen in {wrong.images:,} of {of} without it"
        lines.append(f"commonest wrong label: {names[wrong.label]!r} {what}")
    return lines


def write_predictions(path: Path, evaluation: Evaluation, dataset: Dataset) -> None:
    """Writes a line for each test image, as RFC 4180 has it, in UTF-8.

    The columns are the path of the image, or its index in the split if it is no file of its own; the names of the true
    class and of the predicted one; the probability of the prediction; and the rank of the true class among all classes,
    from 1. An image whose numbers are not finite has neither prediction nor probability. Where images may have several
    classes, names have | between, and a column for each of at most `MOST_COLUMNS` classes has its probability.
    """
    names, paths = dataset.class_names, dataset.test_paths
    several = dataset.multi_label
    listed = names if len(names) <= MOST_COLUMNS else ()
    columns = (dataset.test.labels, evaluation.predictions, evaluation.probabilities)
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS[:3], *(f"probability of {name}" for name in listed)] if several else COLUMNS)
        for index, (label, guess, probability) in enumerate(zip(*columns, strict=True)):
            image = plain_text(paths[index]) if len(paths) else index
            lost = guess.min() < 0
            shares = [] if several and not listed else ["" if lost else str(share) for share in np.ravel(probability)]
            rank = [] if several else [min(int(evaluation.ranks[index]) + 1, len(names))]
            writer.writerow([image, dataset.named(label), "" if lost else dataset.named(guess), *shares, *rank])


def sum_of_predictions(run: Path) -> str | None:
    """Returns a check sum of predictions.csv, for the summary of the run; None if the file cannot be read."""
    try:
        with open_regular(run / PREDICTIONS) as file:
            return f"{zlib.crc32(file.read()):08x}"
    except OSError:
        return None


def mistakes_size(dataset: Dataset) -> int:
    """Returns an upper estimate of the bytes of mistakes.png, predictions.csv and the scores in summary.json."""
    shape = dataset.test.images.shape[1:] if isinstance(dataset.test, Split) else dataset.test.image_shape
    picture = DRAWN * min(prod(shape), DRAWN_BYTES) + TEXTS_BYTES
    sizes = [len(name.encode()) for name in dataset.class_names]
    paths = sum(2 * len(plain_text(path).encode()) for path in dataset.test_paths)
    shares = 30 * len(sizes) * (len(sizes) <= MOST_COLUMNS)
    line = 4 * (sum(sizes) + len(sizes)) + shares if dataset.multi_label else 4 * max(sizes)
    return picture + len(dataset.test.labels) * (line + 60) + paths + len(sizes) * (4 * max(sizes) + 260)


def draw_worst(path: Path, evaluation: Evaluation, dataset: Dataset, reader: Reader | None, title: str) -> None:
    """Draws the most confident mistakes.

    Args:
        path: the file to write.
        evaluation: the predictions for the test split.
        dataset: the data set.
        reader: decodes the images of a streamed test split, see `test_reader`.
        title: network and data.

    Raises:
        ValueError: an image can no longer be read; one line that names it.
    """
    names, labels = dataset.class_names, dataset.test.labels
    guesses: list[str | None]
    if dataset.multi_label:
        wrong, worst, of_class, confidence = most_confident_labels(evaluation, labels)
        what = "wrong label"
        pairs = zip(worst.tolist(), of_class.tolist(), confidence.tolist(), strict=True)
        guesses = [f"{'no ' * labels[at, of]}{names[of]}" if share >= 0 else None for at, of, share in pairs]
        probabilities = confidence.tolist()
    else:
        wrong, worst = int((evaluation.predictions != labels).sum()), most_confident(evaluation, labels)
        what = "mistake"
        guesses = [names[guess] if guess >= 0 else None for guess in evaluation.predictions[worst]]
        probabilities = evaluation.probabilities[worst].tolist()
    title = f"{f'{wrong:,}' if wrong else 'no'} {what}{'s' * (wrong > 1)} in {_images(len(labels))}: {title}"
    which = f"the {DRAWN} most confident" if wrong > DRAWN else "the most confident first"
    truths = [dataset.named(label, " + ") or "none" for label in labels[worst]]
    images = _read(dataset.test, worst, reader)
    draw_mistakes(path, images, truths, guesses, probabilities, title, which if wrong else "")


def most_confident(evaluation: Evaluation, labels: np.ndarray, most: int = DRAWN) -> np.ndarray:
    """Returns the indices of the wrong predictions with the largest probabilities, the largest first.

    Images without a prediction come last; of equal probabilities the first in the split.
    """
    wrong = np.flatnonzero(evaluation.predictions != labels)
    probabilities = np.nan_to_num(evaluation.probabilities[wrong], nan=-1.0)
    return wrong[np.argsort(-probabilities, kind="stable")[:most]]


def most_confident_labels(
    evaluation: Evaluation, labels: np.ndarray, most: int = DRAWN
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the number of wrong labels of images that may have several classes, and the most confident of them.

    Those have three arrays, of images, of classes, and of the probability that the network gives the wrong answer. An
    image without a prediction counts once, with -1 for its probability, and comes last.
    """
    lost = evaluation.predictions[:, :1] < 0
    wrong = np.where(lost, np.arange(labels.shape[1]) == 0, evaluation.predictions != labels)
    images, classes = np.nonzero(wrong)
    probability = evaluation.probabilities[images, classes]
    probability = np.where(lost[images, 0], -1, np.where(labels[images, classes] == 1, 1 - probability, probability))
    order = np.argsort(-probability, kind="stable")[:most]
    return len(images), images[order], classes[order], probability[order]


def _scores(evaluation: Evaluation, dataset: Dataset) -> ClassScores:
    if dataset.multi_label:
        return multi_label_scores(dataset.test.labels, evaluation.predictions)
    return class_scores(dataset.test.labels, evaluation.predictions, len(dataset.class_names))


def _read(split: AnySplit, indices: np.ndarray, reader: Reader | None) -> np.ndarray:
    """Returns the images at these indices as the network sees them, of one shape; an empty array for none."""
    if isinstance(split, Split):
        return _as_bytes(split.images[indices])
    if isinstance(split, BatchedSplit):
        places, start = {int(index): place for place, index in enumerate(indices)}, 0
        found: dict[int, np.ndarray] = {}
        for batch, _ in split.batches() if places else ():
            found |= {places[start + i]: batch[i] for i in range(len(batch)) if start + i in places}
            start += len(batch)
        images = [found[place] for place in range(len(indices))]
        return _as_bytes(np.stack(images)) if images else np.zeros((0, *split.image_shape), np.uint8)
    assert reader is not None
    images = [image.result() for image in reader.start(indices, np.zeros_like(indices))]
    return np.stack(images) if images else np.zeros((0, *split.image_shape), np.uint8)


def _as_bytes(images: np.ndarray) -> np.ndarray:
    """Rounds images of floating point, which a user passed, to pixels that can be drawn."""
    return images if images.dtype == np.uint8 else np.clip(np.rint(images), 0, 255).astype(np.uint8)


def _images(count: int) -> str:
    return f"{count:,} test image{'s' * (count != 1)}"
