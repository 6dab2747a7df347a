"""The file summary.json of a finished run, read."""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from common_flax.json_input import typed
from training_flax.run.folder import read_json

SUMMARY = "summary.json"
Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class Summary(msgspec.Struct):
    """The fields that others read, with their types; older versions lack some of them."""

    steps: Count = 0
    parameters: Count = 0
    test_accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    images_per_second: Amount = 0.0
    train_seconds: Amount = 0.0
    mark: str = ""


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
