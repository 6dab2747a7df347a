"""Parts and classes in folders of images, as people and published data sets lay them out."""

import os
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from common_flax.errors import InLines
from training_flax.files.listing import entries_of, images_below, is_a, of_a_system

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")
VALIDATION = ("val", "valid", "validation")
NONE = "none"  # in place of a validation part's name
TREE = (
    "  PATH/cat/1.jpg  PATH/dog/2.jpg                  a folder for each class, of which a part is held out for tests",
    "  PATH/train/cat/1.jpg  PATH/test/cat/2.jpg       parts; PATH/val, if it is there too, is for validation",
    "  path,label lines in a table, labels.csv         with --data csv:PATH/labels.csv",
)


class Layout(NamedTuple):
    """The folders of the parts, each with the folders of its classes.

    Attributes:
        train: the train part, which is the folder itself if that has no parts.
        test: the test part; None if there is none with labels.
        validation: the validation part; None if there is none.
        notes: what a user should know of this choice, a line each.
    """

    train: Path
    test: Path | None
    validation: Path | None
    notes: tuple[str, ...]


def layout_of(
    root: Path, train_split: str | None = None, test_split: str | None = None, validation_split: str | None = None
) -> Layout:
    """Finds the parts of a folder: ROOT/train, or ROOT itself if it has no parts, and those of `TEST`.

    Args:
        root: the folder.
        train_split, test_split: names of the folders to take. A test part that is not named is the first one that has
            the classes, or else some of them; one without class folders, as in competitions, is left out.
        validation_split: name of the folder to take, or "none". Left out, it is the first of `VALIDATION` beside a test
            part of another name, if it has all classes.

    Raises:
        ValueError: one line, or one with the expected tree in three more: there are fewer than two classes, no train
            part beside a test part, or a part that is named has no class folders.
    """
    names = [entry.name for entry in entries_of(root)]
    found = train_split or _first(names, TRAIN)
    parts = _all(names, TEST)
    if found is None and parts:
        _unknown(root, f"has no folder 'train'; --train-split NAME takes a folder of another name beside {parts[0]!r}")
    train = root / found if found else root
    classes = class_folders(train)
    if len(classes) < 2:
        _too_few(root, train, classes)
    others = [name for name in parts if root / name != train] if test_split is None else [test_split]
    test, notes = _labelled([root / name for name in others], classes, optional=test_split is None)
    if train == root and (inner := _alike(classes)):
        shown = ", ".join(map(repr, [*classes][:3])) + (", …" if len(classes) > 3 else "")
        notes.append(f"the classes are {shown}, which all hold {inner}; if these are parts, name them: --train-split")
    validation = None
    if validation_split not in (None, NONE):
        validation = root / validation_split
    elif validation_split is None and test_split is None and test and test.name.lower() not in VALIDATION:
        for name in (name for name in _all(names, VALIDATION) if root / name not in (train, test)):
            if class_folders(root / name).keys() == classes.keys():
                validation = root / name
                break
    return Layout(train, test, validation, tuple(notes))


def class_folders(part: Path) -> dict[str, Path]:
    """Returns the folders of the classes, sorted by name, by what is compared of their names: Unicode's form NFC.

    Disks of macOS spell letters with accents in another form (NFD) than most. Raises ValueError for equal names.
    """
    folders: dict[str, Path] = {}
    for entry in entries_of(part):
        if is_a(entry, os.DirEntry.is_dir) and not of_a_system(entry):
            name = unicodedata.normalize("NFC", entry.name)
            if name in folders:
                raise ValueError(f"{str(part)!r}: two classes have the name {name!r}, spelled in two ways; rename one")
            folders[name] = Path(entry.path)
    return folders


def _all(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Returns the names that are among those wanted, in the order of the wanted ones; exact spelling comes first."""
    lower = [name for each in wanted for name in names if name.lower() == each and name not in wanted]
    return [each for each in wanted if each in names] + lower


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next(iter(_all(names, wanted)), None)


def _unknown(root: Path, what: str) -> NoReturn:
    raise InLines(f"{str(root)!r} {what}. Images are expected as one of:", TREE)


def _too_few(root: Path, train: Path, classes: dict[str, Path]) -> NoReturn:
    """Raises the error for a folder with fewer than two classes, with what may be meant."""
    beside = len([path for path in images_below(str(train)) if Path(path).parent == train])
    what = f"must have a folder for each of at least 2 classes; it has {len(classes)}"
    what += f", and {beside:,} image{'s' * (beside != 1)} beside" if beside else ""
    tables = [entry.name for entry in entries_of(root) if entry.name.lower().endswith((".csv", ".tsv"))]
    inner = next(iter(classes.values()), None)
    if tables:
        what += f"; for the labels in {tables[0]!r}: --data csv:{root / tables[0]}"
    elif inner is not None and not beside and (len(class_folders(inner)) > 1):
        what += f"; for the classes in {inner.name!r}: --data folder:{inner}"
    _unknown(train, what)


def _alike(classes: dict[str, Path]) -> str | None:
    """Returns the names of the folders that all classes hold, if they hold the same ones and no file beside."""
    first: set[str] | None = None
    for place in classes.values():
        entries = entries_of(place)
        inner = {entry.name for entry in entries if is_a(entry, os.DirEntry.is_dir)}
        if len(inner) < 2 or len(inner) < len(entries) or first not in (None, inner):
            return None
        first = inner
    return ", ".join(map(repr, sorted(first or ())[:3])) + (", …" if first and len(first) > 3 else "")


def _labelled(parts: Sequence[Path], classes: Collection[str], optional: bool) -> tuple[Path | None, list[str]]:
    """Returns the first part that has the classes, else some of them, else others; and notes on parts before it.

    Without a part that has class folders, returns None if a part is `optional`, else raises ValueError.
    """
    folders = {part: class_folders(part).keys() for part in parts}
    wanted = set(classes)
    # A single folder of another name, as in test/unknown, holds images without labels too.
    rules = (wanted.__eq__, wanted.intersection, lambda there: len(there) > optional)
    test = next((part for rule in rules for part, there in folders.items() if rule(set(there))), None)
    if test is None and not optional:
        raise ValueError(
            f"{str(parts[0])!r} has no folder for each class, and images without labels cannot be tested on; add a "
            f"folder 'val', and predict them later: {_predict(parts[0])}"
        )
    notes = []
    for part in parts if test is None else parts[: parts.index(test)]:
        if there := wanted & folders[part]:
            about = f"folders of {len(there):,} of {len(wanted):,} classes, and {len(folders[part] - wanted):,} others"
        else:
            count = len(images_below(str(part)))
            about = f"{count:,} image{'s' * (count != 1)} without labels"
        instead = "and is passed over" if test is None else f"{test.name!r} is the test part"
        comma = "" if test is None else ","
        notes.append(f"{part.name!r} has {about}{comma} {instead}; {_predict(part)}")
    return test, notes


def _predict(part: Path) -> str:
    return f"python -m training_flax.predict --run RUN {part}"
