"""Image files named in a table: a CSV file of paths and labels."""

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common_flax.files import open_regular, user_path
from training_flax.data.source import HEADER_LIMIT, Source, Sources, of_files, size_of_image
from training_flax.files.image_files import image_extensions
from training_flax.files.listing import entries_of, is_a
from training_flax.files.rows import PARTS, Row, rows_of

USUAL = (".jpg", ".jpeg", ".png")  # endings that are tried first


def table(path: str, *, validated: bool = True) -> Sources:
    """Reads the images that a table names, in columns of path and label, and of the part if there is one.

    The first line names the columns, see `PATH`, `LABEL` and `SPLIT`; a single column beside these is the label too.
    Commas, semicolons or tabs stand between the columns. Paths are relative to the folder of the table, or else to the
    first folder in it that has the first image; their endings may be missing. Labels are numbers or names; classes are
    sorted, as numbers if all of them are. Images may have several classes, see `rows_of`. Rows that repeat another one
    are left out.

    Args:
        path: the file, in UTF-8.
        validated: rows of "val" are for validation, if there are rows of "test" too; False leaves them out.

    Returns:
        The sources. Without rows of "test" those of "val" are the test part; without both, `held_out` draws it.

    Raises:
        ValueError: one line: the file is missing or no such table, an image is missing, cannot be read, has two labels
            or is in two parts, there are fewer than two classes, or a class has no train image.
    """
    if not path:
        raise ValueError("name the table: 'csv:FILE' has a line of path and label for each image")
    file = user_path(path)
    try:
        given = rows_of(_text(file))
        rows, base = _found(file, given.rows)
        different, repeated = _different(rows)
        names = given.classes or _classes(different)
        parts = {
            part: [row for row in different if (row.part or "train") == part] for part in dict.fromkeys(PARTS.values())
        }
        trained = {label for row in parts["train"] for label in row.labels}
        if lacking := [name for name in names if name not in trained]:
            raise ValueError(f"class {lacking[0]!r} has no train image")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{str(file)!r}: {error}") from None
    if not parts["test"]:
        parts["test"], parts["validation"] = parts["validation"], []
    elif not validated:
        parts["validation"] = []
    files = {row.file for part in parts.values() for row in part}
    sizes = {each: size_of_image(each, True) or 0 for each in files} if len(files) <= HEADER_LIMIT else None
    several = bool(given.several)
    sources = {part: _source(listed, names, sizes, several) for part, listed in parts.items() if listed}
    notes = [given.several] if several else []
    notes += [f"images are in {base!r}"] if base else []
    if repeated:
        notes.append(f"{repeated:,} row{'s repeat others' if repeated > 1 else ' repeats another one'}, left out")
    test, validation = sources.get("test"), sources.get("validation")
    return Sources(sources["train"], test, names, tuple(notes), validation=validation)


def _source(
    rows: Sequence[Row], names: Sequence[str], sizes: Mapping[str, int] | None, several: bool = False
) -> Source:
    """Makes the source of some rows, whose images have one class each, or `several`."""
    places = {name: label for label, name in enumerate(names)}
    if several:
        labels = np.zeros((len(rows), len(names)), np.uint8)
        for number, row in enumerate(rows):
            labels[number, [places[label] for label in row.labels]] = 1
    else:
        labels = np.array([places[row.label] for row in rows], np.int32)
    return of_files([row.file for row in rows], [row.path for row in rows], labels, sizes)


def _text(file: Path) -> str:
    """Reads the whole file, without the mark by which Excel begins UTF-8."""
    try:
        with open_regular(file) as opened:
            data = opened.read()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not UTF-8; save the table as CSV in UTF-8") from None


def _found(file: Path, rows: Sequence[Row]) -> tuple[list[Row], str]:
    """Returns the rows with their images' places, and the folder that they are in ("" for that of the table).

    Raises ValueError, which names the first image that is missing, and the number of all.
    """
    bases = [str(file.parent), *(entry.path for entry in entries_of(file.parent) if is_a(entry, os.DirEntry.is_dir))]
    base = next((base for base in bases if _image(base, rows[0].path)), bases[0])
    found = [row._replace(file=_image(base, row.path)) for row in rows]
    if missing := [row for row in found if not row.file]:
        count = f"{len(missing):,} of {len(rows):,} images {'are' if len(missing) > 1 else 'is'} missing"
        place = f"{missing[0].path!r} in line {missing[0].line}"
        raise ValueError(f"{count}, {'the first is ' if len(missing) > 1 else ''}{place}")
    return found, "" if base == bases[0] else Path(base).name


def _image(base: str, path: str) -> str:
    """Returns the place of an image, whose name may lack its ending, or have Windows' \\; "" if there is none."""
    for name in dict.fromkeys((path, path.replace("\\", "/"))):
        place = os.path.normpath(Path(base, name))
        endings = dict.fromkeys((*USUAL, *sorted(image_extensions())))
        for ending in ("", *endings, *map(str.upper, endings)):
            if "\0" not in place and Path(place + ending).is_file():
                return place + ending
    return ""


def _different(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Returns the rows without those that repeat another one, and their number.

    Raises ValueError for an image with two labels, or in two parts.
    """
    first: dict[str, Row] = {}
    for row in rows:
        before = first.setdefault(row.file, row)
        for what in ("label", "part"):
            one, other = getattr(before, what), getattr(row, what)
            if one != other:
                raise ValueError(f"{row.path!r} has the {what} {one!r} in line {before.line}, {other!r} in {row.line}")
    return list(first.values()), len(rows) - len(first)


def _classes(rows: Sequence[Row]) -> tuple[str, ...]:
    names = {label for row in rows for label in row.labels}
    if len(names) < 2:
        raise ValueError(f"there must be at least 2 classes; it has one, {min(names)!r}")
    numbers = all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names)
    order: Callable[[str], tuple[int, str]] = lambda name: (int(name) if numbers else 0, name)  # noqa: E731
    return tuple(sorted(names, key=order))
