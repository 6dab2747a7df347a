"""The file metrics.jsonl of a run: a line of JSON for each entry, with a check sum of its own."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from common_flax.check_sums import sealed, unsealed
from common_flax.files import append_line, whole_file
from common_flax.json_input import parse_object, typed
from common_flax.regular import open_regular
from training_flax.runtime.signals import RunError

METRICS = "metrics.jsonl"


class Entry(msgspec.Struct):
    """The fields that each entry has; all others are numbers or null.

    Attributes:
        split: the images that the numbers are about, such as "train".
        step: the number of steps so far.
        epoch: the same in passes over the train split.
    """

    split: str
    step: Annotated[int, msgspec.Meta(ge=0)]
    epoch: Annotated[float, msgspec.Meta(ge=0)]


def sum_of_metrics(run: Path) -> str:
    """Returns a check sum of the whole file, for the summary of a finished run."""
    return f"{zlib.crc32((run / METRICS).read_bytes()):08x}"


def append_metrics(run: Path, values: Mapping[str, Any]) -> None:
    """Appends an entry, with "split" and "step"."""
    append_line(run / METRICS, _line(values))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Reads the entries, without an incomplete last line; raises RunError if a line is damaged."""
    path = run / METRICS
    lines = _content(path).split(b"\n")[:-1] if path.exists() else []
    metrics: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            values = unsealed(parse_object(line, nan_is_null=True))  # older versions wrote NaN
            typed(values, Entry)
            typed({name: value for name, value in values.items() if name != "split"}, dict[str, float | None])
        except ValueError:
            raise RunError(f"line {number} of {str(path)!r} is damaged; without it the run can go on") from None
        metrics.append(values)
    return metrics


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def rewind_metrics(run: Path, step: int, evaluated: int) -> tuple[int, int]:
    """Removes entries of training after `step`, and of evaluations after the step `evaluated`.

    Returns the numbers of entries before and after.
    """
    entries = read_metrics(run)
    kept = [entry for entry in entries if entry["step"] <= (step if entry["split"] == "train" else evaluated)]
    with whole_file(run / METRICS) as file:
        file.write_text("".join(f"{_line(entry)}\n" for entry in kept), encoding="utf-8")
    return len(entries), len(kept)


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(sealed(values), allow_nan=False)
