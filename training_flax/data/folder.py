"""Image files in folders: data sets with one folder per class."""

import os
import unicodedata
from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np

from common_flax.files import open_regular, user_path
from common_flax.terminal import plain_text
from training_flax.data.decode import read_image, read_size
from training_flax.data.image_files import NotAnImage, image_extensions, may_be_image
from training_flax.data.listing import Whole, entries_of, files_below, images_below, is_a, of_a_system
from training_flax.data.source import HEADER_LIMIT, Source, Sources, sum_of_files

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")


def folder(
    path: str, *, train_split: str | None = None, test_split: str | None = None, strict: bool = False
) -> Sources:
    """Reads the images PATH/train/CLASS/** and PATH/test/CLASS/**, or those of the first other name in `TEST`.

    A label is the position of the class folder in sorted order. Images are the files with an extension of a format in
    `image_files` that begin as one, in the class folder or below it. Other files are passed over, and listed in the
    result, as are links that lead to other classes; hidden ones and folders of `SYSTEM_FOLDERS` do not count. A test
    part without class folders, as in competitions, or with other classes, is left out if there is a better one. An
    image whose size in bytes has changed since it was listed is an error, if there are at most `HEADER_LIMIT` images;
    of more, only the names are looked at.

    Args:
        path: the folder PATH.
        train_split, test_split: names of the folders to take, in place of those of `TRAIN` and `TEST`.
        strict: a file that is no image is an error.

    Raises:
        ValueError: one line: a folder is missing or cannot be read, there are fewer than two classes, train and test
            have different classes, a class has no image, or a link is broken.
    """
    if not path:
        raise ValueError("name the folder: 'folder:PATH' has PATH/train/CLASS/* and PATH/test/CLASS/*")
    for option, value in (("train_split", train_split), ("test_split", test_split)):
        if value is not None and not value.strip():
            raise ValueError(f"{option} must name a folder in {path!r}; given {value!r}")
    root = user_path(path)
    names = [entry.name for entry in entries_of(root)]
    train = root / (train_split or _first(names, TRAIN) or _missing(root, "no folder 'train'", "--train-split"))
    classes = _classes(train)
    others = [name for name in _all(names, TEST) if root / name != train]
    if test_split is not None:
        others = [test_split]
    if not others:
        _missing(root, "neither a folder 'test' nor one 'val', 'valid' or 'validation'", "--test-split")
    if len(classes) < 2:
        raise ValueError(f"{str(train)!r} must have a folder for each of at least 2 classes; it has {len(classes)}")
    test, notes = _labelled([root / name for name in others], classes)
    tested = _classes(test)
    unmatched = sorted(classes.keys() ^ tested.keys())
    if unmatched:
        shown = ", ".join(map(repr, unmatched[:5])) + (", …" if len(unmatched) > 5 else "")
        raise ValueError(
            f"{str(root)!r}: classes must be the same in {train.name!r} and {test.name!r}; in one alone: {shown}"
        )
    folders = [list(classes.values()), [tested[name] for name in classes]]
    real = [[os.path.realpath(place) for place in part] for part in folders]
    if len(set(real[0])) < len(real[0]):
        one, other = (folders[0][place] for place in _equal(real[0]))
        raise ValueError(f"{str(one)!r} and {str(other)!r} are one folder, and cannot be two classes")
    whole = Whole((train, test), chain(*folders))
    (first, passed), (second, more) = (
        _source(part, each, whole, strict) for part, each in zip((train, test), folders, strict=True)
    )
    same = [label for label, (one, two) in enumerate(zip(*real, strict=True)) if one == two]
    shared = int(np.isin(second.labels, same).sum())
    if shared:
        notes.append(f"{shared:,} of the test images are train images too: {test.name!r} has folders of {train.name!r}")
    return Sources(first, second, _texts([place.name for place in folders[0]]), tuple(notes), (*passed, *more))


def _equal(values: Sequence[str]) -> tuple[int, int]:
    """Returns the places of the first value that occurs twice."""
    second = next(place for place, value in enumerate(values) if value in values[:place])
    return values.index(values[second]), second


def _all(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Returns the names that are among those wanted, in the order of the wanted ones; exact spelling comes first."""
    lower = [name for each in wanted for name in names if name.lower() == each and name not in wanted]
    return [each for each in wanted if each in names] + lower


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next(iter(_all(names, wanted)), None)


def _missing(root: Path, what: str, option: str) -> NoReturn:
    parts = _all([entry.name for entry in entries_of(root)], (*TRAIN, *TEST))
    folders = [repr(place.name) for place in _classes(root).values()]
    if len(folders) >= 2 and not parts:
        shown = ", ".join(folders[:3]) + (", …" if len(folders) > 3 else "")
        raise ValueError(
            f"{str(root)!r} has {what}; if {shown} are the classes, move most images of each to train/CLASS and the "
            f"others to test/CLASS; {option} NAME takes a folder of another name"
        )
    raise ValueError(f"{str(root)!r} has {what}; {option} NAME takes a folder of another name")


def _labelled(parts: Sequence[Path], classes: Collection[str]) -> tuple[Path, list[str]]:
    """Returns the first part that has the classes, else some of them, else others; and notes on parts before it.

    Raises ValueError if no part has class folders.
    """
    folders = {part: _classes(part).keys() for part in parts}
    wanted = set(classes)
    rules = (wanted.__eq__, wanted.intersection, bool)
    test = next((part for rule in rules for part, there in folders.items() if rule(set(there))), None)
    if test is None:
        raise ValueError(
            f"{str(parts[0])!r} has no folder for each class, and images without labels cannot be tested on; add a "
            f"folder 'val', and predict them later: {_predict(parts[0])}"
        )
    notes = []
    for part in parts[: parts.index(test)]:
        if there := wanted & folders[part]:
            about = f"folders of {len(there):,} of {len(wanted):,} classes, and {len(folders[part] - wanted):,} others"
        else:
            count = len(images_below(str(part)))
            about = f"{count:,} image{'s' * (count != 1)} without labels"
        notes.append(f"{part.name!r} has {about}, {test.name!r} is the test part; {_predict(part)}")
    return test, notes


def _predict(part: Path) -> str:
    return f"python -m training_flax.predict --run RUN {part}"


def _classes(part: Path) -> dict[str, Path]:
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


def _texts(classes: Sequence[str]) -> tuple[str, ...]:
    r"""Returns the names of classes as text that any file can hold: bytes that are no UTF-8 become \xNN."""
    texts = tuple(map(plain_text, classes))
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise ValueError(f"two classes have the name {twice!r} once bytes that are no UTF-8 are escaped; rename one")
    return texts


def _source(part: Path, classes: Sequence[Path], whole: Whole, strict: bool) -> tuple[Source, list[str]]:
    """Returns the images of a part, and the files in it that are none."""
    extensions = image_extensions()
    found: list[list[str]] = []
    passed = [
        entry.path
        for entry in entries_of(part)
        if Path(entry.name).suffix.lower() in extensions and is_a(entry, os.DirEntry.is_file)
    ]
    for place in classes:
        files, others = files_below(place, whole)
        found.append([file for file in files if Path(file).suffix.lower() in extensions])
        passed += others + [file for file in files if Path(file).suffix.lower() not in extensions]
    sizes: dict[str, int] = {}
    if sum(map(len, found)) <= HEADER_LIMIT:
        sizes = {file: size for files in found for file in files if (size := _size(file, strict)) is not None}
        passed += [file for files in found for file in files if file not in sizes]
        found = [[file for file in files if file in sizes] for files in found]
    if strict and passed:
        raise ValueError(f"{passed[0]!r} is no image of a class; without --strict it is passed over")
    for place, files in zip(classes, found, strict=True):
        if not files:
            raise ValueError(f"{str(place)!r} has no image")
    paths = [file for files in found for file in files]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in found])

    def read(index: int) -> np.ndarray:
        file = paths[index]
        image = read_image(file, file)
        if file in sizes and (now := _bytes(file)) != sizes[file]:
            raise ValueError(f"{file!r} has changed since it was listed: {sizes[file]:,} bytes then, {now:,} now")
        return image

    listed = sum_of_files(file[len(str(part)) + 1 :] for file in paths)
    total = sum(sizes.values()) if sizes else None
    return Source(labels, lambda index: read_size(paths[index], paths[index]), read, listed, total), passed


def _size(file: str, strict: bool) -> int | None:
    """Returns the size of an image in bytes; None for a file that is no image, which `strict` makes an error."""
    try:
        with open_regular(file) as opened:
            start, size = opened.read(16), os.fstat(opened.fileno()).st_size
    except OSError as error:
        raise ValueError(f"{file!r}: {error.strerror or error}") from None
    try:
        if not may_be_image(start):
            read_size(file, file)
    except NotAnImage:
        if strict:
            raise
        return None
    return size


def _bytes(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError as error:
        raise ValueError(f"{file!r}: {error.strerror}") from None
