"""The file metrics.jsonl of a run: a line of JSON for each entry, with a check sum of its own."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from common_flax.check_sums import sealed, unsealed
from common_flax.files import append_line, open_regular, whole_file
from common_flax.json_input import parse_object, typed
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
    """Appends an entry, with "split" and "step"; the file begins with its first entry, and is never empty."""
    if (run / METRICS).exists():
        append_line(run / METRICS, _line(values))
    else:
        _write(run, [values])


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Reads the entries, without an incomplete last line; raises RunError if a line is damaged."""
    return _read_metrics(run, None)


def _read_metrics(run: Path, needed: int | None) -> list[dict[str, Any]]:
    """Reads the entries; those after the first damaged line are left out, if the line is not among the `needed`."""
    path = run / METRICS
    lines = _content(path).split(b"\n")[:-1] if path.exists() else []
    metrics: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            values = unsealed(parse_object(line, nan_is_null=True))  # older versions wrote NaN
            typed(values, Entry)
            typed({name: value for name, value in values.items() if name != "split"}, dict[str, float | None])
        except ValueError:
            if needed is not None and number > needed:
                break
            raise RunError(f"line {number} of {str(path)!r} is damaged; without it the run can go on") from None
        metrics.append(values)
    return metrics


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def rewind_metrics(run: Path, step: int, evaluated: int, needed: int) -> tuple[int, int]:
    """Removes entries of training after `step`, and of evaluations after the step `evaluated`.

    Args:
        run: the run's folder.
        step, evaluated: steps of the checkpoint from which the run goes on.
        needed: number of entries that were on the disk before that checkpoint was. A loss of power may damage others.

    Returns:
        The numbers of entries before and after.

    Raises:
        RunError: a line is damaged, and is among the needed ones.
    """
    entries = _read_metrics(run, needed)
    kept = [entry for entry in entries if entry["step"] <= (step if entry["split"] == "train" else evaluated)]
    if kept:
        _write(run, kept)
    else:
        (run / METRICS).unlink(missing_ok=True)
    return len(entries), len(kept)


def _write(run: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    with whole_file(run / METRICS) as file:
        file.write_text("".join(f"{_line(entry)}\n" for entry in entries), encoding="utf-8")


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(sealed(values), allow_nan=False)
