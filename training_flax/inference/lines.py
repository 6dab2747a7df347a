"""Predictions of files as text: a table to read, or lines of JSON."""

import json
from collections.abc import Iterator, Sequence

from training_flax.inference.predict import FileBatch

WIDEST = 60  # columns of the table grow no wider; what is longer sticks out


class Table:
    """A table of images and their classes, one a line and the likeliest first, that can be written bit by bit.

    Args:
        paths: of all images, which say how wide the first column is.
        class_names: one for each class.
    """

    def __init__(self, paths: Sequence[str], class_names: Sequence[str]):
        self._names = class_names
        self._widths = [
            min(max(map(len, [title, *texts])), WIDEST) for title, texts in (("image", paths), ("class", class_names))
        ]
        self.heading = self._line("image", "class", "probability")

    def lines(self, batch: FileBatch) -> Iterator[str]:
        """The rows of a batch."""
        for path, probabilities, classes in zip(batch.paths, *batch.predictions, strict=True):
            for place, (probability, index) in enumerate(zip(probabilities, classes, strict=True)):
                yield self._line(path if place == 0 else "", self._names[index], f"{100 * probability:.2f} %")

    def _line(self, image: str, name: str, probability: str) -> str:
        return f"{image:{self._widths[0]}}  {name:{self._widths[1]}}  {probability:>11}"


def json_lines(batch: FileBatch, class_names: Sequence[str]) -> Iterator[str]:
    """{"image": path, "classes": [{"class": name, "index": number, "probability": share}, …]} for each image."""
    for path, probabilities, classes in zip(batch.paths, *batch.predictions, strict=True):
        likeliest = [
            # The shortest digits that give the same number back.
            {"class": class_names[index], "index": int(index), "probability": float(str(probability))}
            for probability, index in zip(probabilities, classes, strict=True)
        ]
        yield json.dumps({"image": path, "classes": likeliest})
