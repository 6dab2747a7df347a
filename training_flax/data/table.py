"""Image files named in a table: a CSV file of paths and labels."""

import csv
import io
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common_flax.files import open_regular, user_path
from training_flax.data.source import HEADER_LIMIT, Source, Sources, of_files, size_of_image
from training_flax.files.image_files import image_extensions
from training_flax.files.listing import entries_of, is_a

# Headings that are recognised, in any case of letters and without _, - and spaces; the first ones are looked for first.
PATH = ("path", "filepath", "imagepath", "file", "filename", "imagefile", "imagename", "image", "img", "imageid", "id")
LABEL = ("label", "class", "classname", "labelname", "target", "category", "labels", "labelid", "classid")
SPLIT = ("split", "part", "fold", "set", "subset")
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
DELIMITERS = ",;\t"
USUAL = (".jpg", ".jpeg", ".png")  # endings that are tried first


class Row(NamedTuple):
    """A line of the table."""

    line: int  # of the file, from 1
    path: str
    label: str
    part: str  # "train", "test" or "validation"; "" in a table without a column of parts
    file: str = ""  # where the image is


def table(path: str, *, validated: bool = True) -> Sources:
    """Reads the images that a table names, in columns of path and label, and of the part if there is one.

    The first line names the columns, see `PATH`, `LABEL` and `SPLIT`; a single column beside these is the label too.
    Commas, semicolons or tabs stand between the columns. Paths are relative to the folder of the table, or else to the
    first folder in it that has the first image; their endings may be missing. Labels are numbers or names; classes are
    sorted, as numbers if all of them are. Rows that repeat another one are left out.

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
        rows, base = _found(file, _rows(_text(file)))
        different, repeated = _different(rows)
        names = _classes(different)
        parts = {
            part: [row for row in different if (row.part or "train") == part] for part in dict.fromkeys(PARTS.values())
        }
        if lacking := [name for name in names if name not in {row.label for row in parts["train"]}]:
            raise ValueError(f"class {lacking[0]!r} has no train image")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{str(file)!r}: {error}") from None
    if not parts["test"]:
        parts["test"], parts["validation"] = parts["validation"], []
    elif not validated:
        parts["validation"] = []
    files = {row.file for part in parts.values() for row in part}
    sizes = {each: size_of_image(each, True) or 0 for each in files} if len(files) <= HEADER_LIMIT else None
    sources = {part: _source(listed, names, sizes) for part, listed in parts.items() if listed}
    notes = [f"images are in {base!r}"] if base else []
    if repeated:
        notes.append(f"{repeated:,} row{'s repeat others' if repeated > 1 else ' repeats another one'}, left out")
    test, validation = sources.get("test"), sources.get("validation")
    return Sources(sources["train"], test, names, tuple(notes), validation=validation)


def _source(rows: Sequence[Row], names: Sequence[str], sizes: Mapping[str, int] | None) -> Source:
    places = {name: label for label, name in enumerate(names)}
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


def _rows(text: str) -> list[Row]:
    """Returns the rows of a table; raises ValueError, which names the line, if it is none."""
    start = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=start.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, head = [], None
    for cells in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if head is None:
            head, (path, label, part) = cells, _columns(cells)
            continue
        if len(cells) != len(head):
            raise ValueError(f"line {line} has {len(cells)} column{'s' * (len(cells) != 1)}, and the first {len(head)}")
        named = {"path": cells[path], "label": cells[label]} | ({} if part is None else {"part": cells[part]})
        if empty := [name for name, cell in named.items() if not cell.strip()]:
            raise ValueError(f"line {line} has no {empty[0]}")
        given = named.get("part", "").strip()
        if given and given.lower() not in PARTS:
            raise ValueError(f"line {line}: the part must be train, test or val; given {given!r}")
        name = unicodedata.normalize("NFC", named["label"].strip())
        rows.append(Row(line, named["path"].strip(), name, PARTS.get(given.lower(), "")))
    if not rows:
        raise ValueError("it has no row of an image; its first line names the columns, such as path,label")
    return rows


def _columns(head: Sequence[str]) -> tuple[int, int, int | None]:
    """Returns the places of the columns of path, label and part, the last of which may be missing."""
    names = [re.sub(r"[\s_-]", "", heading).lower() for heading in head]

    def place(wanted: Sequence[str]) -> int | None:
        return next((names.index(name) for name in wanted if name in names), None)

    path, label, part = place(PATH), place(LABEL), place(SPLIT)
    others = [column for column, name in enumerate(names) if column not in (path, part) and name]
    if label is None and len(others) == 1:
        label = others[0]
    if path is None or label is None:
        lacking = "paths (path, file, image, image_id, …)" if path is None else "labels (label, class, target, …)"
        shown = ", ".join(map(repr, head[:5])) + (", …" if len(head) > 5 else "")
        raise ValueError(f"its first line must name a column of {lacking}; it has {shown}")
    return path, label, part


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
    names = {row.label for row in rows}
    if len(names) < 2:
        raise ValueError(f"there must be at least 2 classes; it has one, {min(names)!r}")
    numbers = all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names)
    order: Callable[[str], tuple[int, str]] = lambda name: (int(name) if numbers else 0, name)  # noqa: E731
    return tuple(sorted(names, key=order))
