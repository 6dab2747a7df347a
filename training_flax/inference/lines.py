"""Predictions of files as text: a table, or lines of JSON."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from common_flax.terminal import plain_text, visible
from training_flax.inference.predict import FileBatch

WIDEST = 60  # largest width of a column; longer texts stick out


def row_format(paths: Sequence[str], class_names: Sequence[str]) -> str:
    """Returns the format of the table's rows (image, class, probability), as wide as all paths and names need."""
    columns = [("image", *paths), ("class", *class_names)]
    image, name = (min(max(len(_shown(text)) for text in texts), WIDEST) for texts in columns)
    return f"{{:{image}}}  {{:{name}}}  {{:>11}}"


def table_rows(row: str, batch: FileBatch, class_names: Sequence[str]) -> Iterator[str]:
    """Yields the rows of a batch: one class per row, the most probable first."""
    for path, probabilities, classes in zip(batch.paths, *batch.predictions, strict=True):
        for place, (probability, index) in enumerate(zip(probabilities, classes, strict=True)):
            name = visible(class_names[index])
            yield row.format(_shown(path) if place == 0 else "", name, f"{100 * probability:.2f} %")


def _shown(text: str) -> str:
    return visible(plain_text(text))


def json_lines(batch: FileBatch, class_names: Sequence[str]) -> Iterator[str]:
    """Yields {"image": path, "classes": [{"class": name, "index": number, "probability": share}, …]} for each image."""
    for path, probabilities, classes in zip(batch.paths, *batch.predictions, strict=True):
        likeliest = [
            {"class": class_names[index], "index": int(index), "probability": _shortest(probability)}
            for probability, index in zip(probabilities, classes, strict=True)
        ]
        # JSON writes all control characters as escapes but the one that deletes.
        line = json.dumps({"image": path, "classes": likeliest}, allow_nan=False)
        yield line.replace("\x7f", "\\u007f")


def _shortest(probability: np.floating) -> float | None:
    """Returns a share with the fewest digits that identify it; None for NaN, which JSON does not have."""
    return float(str(probability)) if np.isfinite(probability) else None
