"""Image files in folders: data sets with one folder per class, and the images that a command line names."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from common_flax.files import open_regular, user_path
from common_flax.terminal import plain_text
from training_flax.data.decode import read_image, read_size
from training_flax.data.image_files import NotAnImage, image_extensions, may_be_image
from training_flax.data.source import HEADER_LIMIT, Source, Sources, sum_of_files

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")
# Folders that storage systems, archives and tools make, and fill with files of their own.
SYSTEM_FOLDERS = {
    *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"),
    *("$recycle.bin", "system volume information", "lost+found", "__macosx", "__pycache__"),
}


def folder(
    path: str, *, train_split: str | None = None, test_split: str | None = None, strict: bool = False
) -> Sources:
    """Reads the images PATH/train/CLASS/** and PATH/test/CLASS/**, or those of the first other name in `TEST`.

    A label is the position of the class folder in sorted order. Images are the files with an extension of a format in
    `image_files` that begin as one, in the class folder or below it. Other files are passed over, and listed in the
    result; hidden ones and folders of `SYSTEM_FOLDERS` do not count. A test part without class folders, as in
    competitions, is left out if there is another one. An image whose size in bytes has changed since it was listed is
    an error, if there are at most `HEADER_LIMIT` images; of more, only the names are looked at.

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
    root = user_path(path)
    names = [entry.name for entry in _entries(root)]
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
    unmatched = sorted(set(classes) ^ set(_classes(test)))
    if unmatched:
        shown = ", ".join(map(repr, unmatched[:5])) + (", …" if len(unmatched) > 5 else "")
        raise ValueError(
            f"{str(root)!r}: classes must be the same in {train.name!r} and {test.name!r}; in one alone: {shown}"
        )
    (train_source, passed), (test_source, more) = (_source(part, classes, strict) for part in (train, test))
    return Sources(train_source, test_source, _texts(classes), notes, (*passed, *more))


def _all(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Returns the names that are among those wanted, in the order of the wanted ones; exact spelling comes first."""
    lower = [name for each in wanted for name in names if name.lower() == each and name not in wanted]
    return [each for each in wanted if each in names] + lower


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next(iter(_all(names, wanted)), None)


def _missing(root: Path, what: str, option: str) -> NoReturn:
    raise ValueError(f"{str(root)!r} has {what}; {option} NAME takes a folder of another name")


def _labelled(parts: Sequence[Path], classes: Sequence[str]) -> tuple[Path, tuple[str, ...]]:
    """Returns the first part that has one of the classes, else one with class folders; and notes on parts before it.

    Raises ValueError if no part has class folders.
    """
    folders = {part: _classes(part) for part in parts}
    test = next((part for part, there in folders.items() if set(there) & set(classes)), None)
    if test is None:
        test = next((part for part, there in folders.items() if there), None)
    if test is None:
        raise ValueError(
            f"{str(parts[0])!r} has no folder for each class, and images without labels cannot be tested on; add a "
            f"folder 'val', and predict them later: {_predict(parts[0])}"
        )
    notes = []
    for part in parts[: parts.index(test)]:
        count = len(_images_below(str(part)))
        images = f"{count:,} image{'s' * (count != 1)} without labels"
        notes.append(f"{part.name!r} has {images}, {test.name!r} is the test part; {_predict(part)}")
    return test, tuple(notes)


def _predict(part: Path) -> str:
    return f"python -m training_flax.predict --run RUN {part}"


def _classes(part: Path) -> tuple[str, ...]:
    return tuple(entry.name for entry in _entries(part) if _is(entry, os.DirEntry.is_dir) and not _of_a_system(entry))


def _texts(classes: Sequence[str]) -> tuple[str, ...]:
    r"""Returns the names of classes as text that any file can hold: bytes that are no UTF-8 become \xNN."""
    texts = tuple(map(plain_text, classes))
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise ValueError(f"two classes have the name {twice!r} once bytes that are no UTF-8 are escaped; rename one")
    return texts


def _source(part: Path, classes: tuple[str, ...], strict: bool) -> tuple[Source, list[str]]:
    """Returns the images of a part, and the files in it that are none."""
    extensions = image_extensions()
    found: list[list[str]] = []
    passed = [
        entry.path
        for entry in _entries(part)
        if Path(entry.name).suffix.lower() in extensions and _is(entry, os.DirEntry.is_file)
    ]
    for name in classes:
        files, others = _files_below(part / name)
        found.append([file for file in files if Path(file).suffix.lower() in extensions])
        passed += others + [file for file in files if Path(file).suffix.lower() not in extensions]
    sizes: dict[str, int] = {}
    if sum(map(len, found)) <= HEADER_LIMIT:
        sizes = {file: size for files in found for file in files if (size := _size(file, strict)) is not None}
        passed += [file for files in found for file in files if file not in sizes]
        found = [[file for file in files if file in sizes] for files in found]
    if strict and passed:
        raise ValueError(f"{passed[0]!r} is no image of a class; without --strict it is passed over")
    for name, files in zip(classes, found, strict=True):
        if not files:
            raise ValueError(f"{str(part / name)!r} has no image")
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


def _entries(path: Path) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder, without hidden ones, sorted by name."""
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{str(path)!r}: {error.strerror}") from None


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    """True if an entry, or a link's target, is of this kind: a file or a folder. Broken links raise ValueError."""
    try:
        if entry.is_symlink():  # raises for a broken link; other entries need no access to the disk
            entry.stat()
        return kind(entry)
    except OSError as error:
        raise ValueError(f"{entry.path!r}: {error.strerror}") from None


def _of_a_system(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower() in SYSTEM_FOLDERS


def _files_below(root: Path) -> tuple[list[str], list[str]]:
    """Returns the regular files of a folder and its subfolders, and what is passed over: other kinds of files, and
    folders of `SYSTEM_FOLDERS`. The order is torchvision's: folders sorted by path, and their files by name.
    """
    files: dict[str, list[str]] = {}
    others: list[str] = []
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above
            continue
        seen.add(real)
        files[str(place)] = []
        for entry in _entries(place):
            if _is(entry, os.DirEntry.is_dir):
                if _of_a_system(entry):
                    others.append(entry.path)
                else:
                    waiting.append(Path(entry.path))
            elif _is(entry, os.DirEntry.is_file):
                files[str(place)].append(entry.path)
            else:
                others.append(entry.path)
    return [file for place in sorted(files) for file in files[place]], others


def find_images(given: Sequence[str], listed: Iterable[str]) -> list[str]:
    """Returns the paths of the images that a command line names, in its order.

    Args:
        given: files of any kind; folders, for the images in them and in their subfolders, sorted; and "-" for `listed`.
        listed: lines, each a file or a folder.

    Raises ValueError if `given` is empty or holds no image, or a folder cannot be read.
    """
    if not given:
        raise ValueError("give images: files, folders, or - for a list of them on stdin")
    paths: list[str] = []
    for name in given:
        # Windows ends lines with \r\n; empty lines name nothing.
        for path in filter(None, (line.rstrip("\r\n") for line in listed)) if name == "-" else [name]:
            paths += _images_below(path) if Path(path).is_dir() else [path]
    if not paths:
        raise ValueError(f"there is no image in {', '.join(map(repr, given))}")
    return paths


def _images_below(root: str) -> list[str]:
    """Returns the sorted images of a folder and its subfolders, without hidden ones; visits no linked folder twice."""
    return sorted(_images(root))


def _images(root: str) -> Iterator[str]:
    def complain(error: OSError) -> None:
        raise ValueError(f"{error.filename!r}: {error.strerror}")

    extensions, seen = image_extensions(), set()
    for place, inner, files in os.walk(root, onerror=complain, followlinks=True):
        real = Path(place).resolve()
        wanted = sorted(name for name in inner if not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS)
        inner[:] = [] if real in seen else wanted
        if real not in seen:
            names = [name for name in files if not name.startswith(".")]
            yield from (str(Path(place, name)) for name in names if Path(name).suffix.lower() in extensions)
        seen.add(real)
