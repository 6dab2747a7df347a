"""The rows of a table of images: paths, classes and parts, out of the text of a CSV file."""

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

# Headings that are recognised, in any case of letters and without _, - and spaces; the first ones are looked for first.
PATH = (
    "path",
    "filepath",
    "imagepath",
    "file",
    "filename",
    "imagefile",
    "imagename",
    "image",
    "img",
    "imageid",
    "id",
    "imageindex",
)
LABEL = (
    "label",
    "class",
    "classname",
    "labelname",
    "target",
    "category",
    "labels",
    "labelid",
    "classid",
    "findinglabels",
)
SPLIT = ("split", "part", "fold", "set", "subset")
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
DELIMITERS = ",;\t"
BETWEEN_CLASSES = "|;"  # stand between the classes of an image, unless they stand between columns
# Cells of a column that tells which images are of its class: pandas writes floats beside empty cells, and booleans.
IS_OF_CLASS = {
    **dict.fromkeys(("1", "1.0", "True", "TRUE", "true"), 1),
    **dict.fromkeys(("0", "0.0", "False", "FALSE", "false"), 0),
    **dict.fromkeys(("-1", "-1.0"), -1),
}


class Row(NamedTuple):
    """A line of the table."""

    line: int  # of the file, from 1
    path: str
    labels: tuple[str, ...]  # the names of its classes, sorted
    part: str  # "train", "test" or "validation"; "" in a table without a column of parts
    file: str = ""  # where the image is

    @property
    def label(self) -> str:
        """The names of the classes in one text."""
        return "|".join(self.labels)


class Rows(NamedTuple):
    """The rows of a table.

    Attributes:
        rows: in their order.
        several: in words, how an image's classes are told, where it may have several; empty where each has one.
        classes: the names of the classes, of which each has a column; empty if they stand in the cells.
    """

    rows: list[Row]
    several: str = ""
    classes: tuple[str, ...] = ()


class _Columns(NamedTuple):
    """The places of the columns: either there is one of labels, or there are some of classes."""

    path: int
    part: int | None
    label: int | None
    classes: tuple[int, ...] = ()


def rows_of(text: str) -> Rows:
    """Reads the rows of a table: a column of labels, or two or more columns of 0 and 1 (or -1 and 1), one a class.

    Labels are of several classes where "|", or ";" in a table with another delimiter, stands in any of them; then an
    empty one is of no class.

    Raises:
        ValueError: the text is no such table; one line, which names the line of the table if it can.
    """
    start = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=start.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    found: list[tuple[int, list[str]]] = []
    for cells in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if not found:
            head, columns = cells, _columns(cells)
        elif len(cells) != len(head):
            raise ValueError(f"line {line} has {len(cells)} column{'s' * (len(cells) != 1)}, and the first {len(head)}")
        found.append((line, [cell.strip() for cell in cells]))
    if len(found) < 2:
        raise ValueError("it has no row of an image; its first line names the columns, such as path,label")
    rows = [_row(line, cells, columns) for line, cells in found[1:]]
    if columns.label is None:
        return _with_columns(rows, found, columns)
    between = next((mark for mark in BETWEEN_CLASSES if mark != delimiter and any(mark in r.label for r in rows)), None)
    if between is None:
        for row in rows:
            if not row.label:
                raise ValueError(f"line {row.line} has no label")
        return Rows(rows)
    told = f"{between!r} stands between the classes of an image"
    return Rows([row._replace(labels=_split(row, between)) for row in rows], told)


def _row(line: int, cells: Sequence[str], columns: _Columns) -> Row:
    """Returns a row with the text of its label, if there is a column of labels."""
    path, part = cells[columns.path], None if columns.part is None else cells[columns.part]
    for name, cell in (("path", path), ("part", part)):
        if cell == "":
            raise ValueError(f"line {line} has no {name}")
    if part and part.lower() not in PARTS:
        raise ValueError(f"line {line}: the part must be train, test or val; given {part!r}")
    label = "" if columns.label is None else unicodedata.normalize("NFC", cells[columns.label])
    return Row(line, path, (label,), PARTS[part.lower()] if part else "")


def _split(row: Row, between: str) -> tuple[str, ...]:
    """Returns the classes of a row's label."""
    names = [name.strip() for name in row.label.split(between)] if row.label else []
    for name in names:
        if not name:
            raise ValueError(f"line {row.line}: a class without a name is in {row.label!r}")
        if names.count(name) > 1:
            raise ValueError(f"line {row.line} names the class {name!r} twice")
    return tuple(sorted(names))


def _with_columns(rows: Sequence[Row], found: Sequence[tuple[int, list[str]]], columns: _Columns) -> Rows:
    """Adds the classes to rows of a table that has a column for each class."""
    head = found[0][1]
    names = [unicodedata.normalize("NFC", head[column]) for column in columns.classes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"its first line names the class {twice[0]!r} twice")
    first: dict[int | None, int] = {}  # the line in which 0 or -1 stands first
    labelled: list[Row] = []
    for row, (line, cells) in zip(rows, found[1:], strict=True):
        values = [IS_OF_CLASS.get(cells[column]) for column in columns.classes]
        if None in values:
            place = values.index(None)
            cell = cells[columns.classes[place]]
            has = f"{names[place]!r} {f'has {cell!r}' if cell else 'is empty'} in line {line}"
            raise ValueError(f"{_no_labels(head)}; and a column of a class has 0 and 1, or -1 and 1: {has}")
        for value in {*values} - {1}:
            first.setdefault(value, line)
        if len(first) > 1:
            raise ValueError(
                f"columns of classes have 0 and 1, or -1 and 1; 0 is in line {first[0]}, and -1 in line {first[-1]}"
            )
        own = (name for name, value in zip(names, values, strict=True) if value == 1)
        labelled.append(row._replace(labels=tuple(sorted(own))))
    return Rows(labelled, "each class has a column of its own", tuple(names))


def _columns(head: Sequence[str]) -> _Columns:
    """Finds the columns of path and part, the last of which may be missing, and that of labels or those of classes."""
    names = [re.sub(r"[\s_-]", "", heading).lower() for heading in head]

    def place(wanted: Sequence[str]) -> int | None:
        return next((names.index(name) for name in wanted if name in names), None)

    path, label, part = place(PATH), place(LABEL), place(SPLIT)
    others = [column for column, name in enumerate(names) if column not in (path, part) and name]
    if path is None:
        raise ValueError(f"its first line must name a column of paths (path, file, image, image_id, …); {_shown(head)}")
    if label is None and len(others) == 1:
        label = others[0]
    if label is not None:
        return _Columns(path, part, label)
    # A second column of names or parts is of no class, nor is the index that pandas writes.
    beside = [column for column in others if names[column] in (*PATH, *SPLIT) or names[column].startswith("unnamed:")]
    classes = tuple(column for column in others if column not in beside)
    if len(classes) < 2:
        raise ValueError(_no_labels(head))
    return _Columns(path, part, None, classes)


def _no_labels(head: Sequence[str]) -> str:
    return f"its first line must name a column of labels (label, class, target, …); {_shown(head)}"


def _shown(head: Sequence[str]) -> str:
    return "it has " + ", ".join(map(repr, head[:5])) + (", …" if len(head) > 5 else "")
