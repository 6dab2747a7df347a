"""The file summary.json of a finished run, read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from common_flax.json_input import typed
from training_flax.run.folder import read_json
from training_flax.run.metrics import sum_of_metrics
from weights_flax.formats.run import SUMMARY

Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ClassSummary(msgspec.Struct):
    """The scores of a class, see `training_flax.learn.per_class.ClassScores`."""

    precision: Share
    recall: Share
    f1: Share
    support: Count
    average_precision: Share | None = None  # where images may have several classes, and any has this one


class Summary(msgspec.Struct):
    """The fields that others read, with their types; older versions lack some of them."""

    steps: Count = 0
    parameters: Count = 0
    test_accuracy: Share = 0.0
    top5_accuracy: Share | None = None
    mean_average_precision: Share | None = None
    per_class: dict[str, ClassSummary] | None = None
    images_per_second: Amount = 0.0
    train_seconds: Amount = 0.0
    stopped_by: str = ""
    planned_steps: Count = 0
    mark: str = ""
    metrics_check_sum: str | None = None
    predictions_check_sum: str | None = None


def read_summary(run: Path) -> dict[str, Any]:
    """Reads the summary of a run; empty if the run is not finished.

    Raises:
        ValueError: `'RUN/summary.json' is damaged: …`, one line that names the field.
    """
    path = run / SUMMARY
    try:
        values = read_json(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error.strerror or error}") from None
    try:
        typed(values, Summary)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from None
    return values


def has_its_metrics(run: Path, summary: Mapping[str, Any]) -> bool:
    """Returns False if the metrics of a finished run are not those that its summary was written after."""
    expected = summary.get("metrics_check_sum")  # older versions wrote none
    return expected is None or sum_of_metrics(run) == expected
