"""The file metrics.jsonl of a run: a line of JSON for each entry.

A line's check sum covers its number and the run's mark too. So lines that are missing, in another order, or of another
run are noticed, but for those at the end.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from common_flax.check_sums import KEY, sealed
from common_flax.files import append_line, open_regular, whole_file
from common_flax.json_input import parse_object, typed
from training_flax.config.run_config import FILE, read_config
from training_flax.runtime.signals import RunError

METRICS = "metrics.jsonl"
PLACE = "place"  # the name of mark and number among the values under the check sum


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


class Metrics:
    """The file of a run that trains.

    Args:
        run: the run's folder.
        mark: the run's mark.

    Attributes:
        lines: the number of entries.
    """

    def __init__(self, run: Path, mark: str):
        self._run, self._mark = run, mark
        self.lines = 0

    def append(self, values: Mapping[str, Any]) -> None:
        """Appends an entry, with "split" and "step"; the file begins with its first entry, and is never empty."""
        if self.lines:
            append_line(self._run / METRICS, _line(values, self._mark, self.lines))
            self.lines += 1
        else:
            self._write([values])

    def rewind(self, step: int, evaluated: int, needed: int) -> int:
        """Removes entries of training after `step`, and of evaluations after the step `evaluated`.

        Args:
            step, evaluated: steps of the checkpoint from which the run goes on.
            needed: entries that were on the disk before that checkpoint was. A loss of power may damage later ones.

        Returns:
            The number of entries before.

        Raises:
            RunError: a line is damaged, and is among the needed ones.
        """
        entries = _read(self._run, self._mark, needed)
        kept = [entry for entry in entries if entry["step"] <= (step if entry["split"] == "train" else evaluated)]
        if kept:
            self._write(kept)
        else:
            (self._run / METRICS).unlink(missing_ok=True)
        return len(entries)

    def _write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(f"{_line(entry, self._mark, number)}\n" for number, entry in enumerate(entries))
        with whole_file(self._run / METRICS) as file:
            file.write_text(text, encoding="utf-8")
        self.lines = len(entries)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Reads the entries, without an incomplete last line; raises RunError if a line is damaged."""
    mark = read_config(run).get("mark") if (run / FILE).is_file() else None
    return _read(run, str(mark or ""))


def sum_of_metrics(run: Path) -> str | None:
    """Returns a check sum of the whole file, for the summary of a finished run; None if it cannot be read."""
    try:
        return f"{zlib.crc32(_content(run / METRICS)):08x}"
    except OSError:
        return None


def _read(run: Path, mark: str, needed: int | None = None) -> list[dict[str, Any]]:
    """Reads the entries; those after the first damaged line are left out, if the line is not among the `needed`."""
    path = run / METRICS
    lines = _content(path).split(b"\n")[:-1] if path.exists() else []
    metrics: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            values = parse_object(line, nan_is_null=True)  # older versions wrote NaN
            check_sum = values.pop(KEY, None)  # and no check sums
            if check_sum is not None and check_sum != _sealed(values, mark, number)[KEY]:
                raise ValueError
            typed(values, Entry)
            typed({name: value for name, value in values.items() if name != "split"}, dict[str, float | None])
        except ValueError:
            if needed is not None and number >= needed:
                break
            raise RunError(
                f"line {number + 1} of {str(path)!r} is damaged; without it and all lines after it the run can go on"
            ) from None
        metrics.append(values)
    return metrics


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _line(values: Mapping[str, Any], mark: str, number: int) -> str:
    """Returns the line of an entry that comes after `number` others."""
    return json.dumps(_sealed(values, mark, number), allow_nan=False)


def _sealed(values: Mapping[str, Any], mark: str, number: int) -> dict[str, Any]:
    entry = sealed({PLACE: f"{mark} {number}", **values})
    del entry[PLACE]
    return entry
