"""Image files in folders: data sets with one folder per class, and the images that a command line names."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from common_flax.files import user_path
from training_flax.data.decode import read_image, read_size
from training_flax.data.image_files import image_extensions
from training_flax.data.source import HEADER_LIMIT, Source, Sources, sum_of_files


def folder(path: str) -> Sources:
    """Reads the images PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/val/CLASS/* if there is no test folder.

    A label is the position of the class folder in sorted order. Images are the files with an extension of a format in
    `image_files`; other files, hidden files and folders within a class folder are ignored. An image whose size in
    bytes has changed since it was listed is an error, if there are at most `HEADER_LIMIT` images.

    Raises:
        ValueError: one line: a folder is missing or cannot be read, there are fewer than two classes, train and test
            have different classes, a class has no image, or a link is broken.
    """
    if not path:
        raise ValueError("name the folder: 'folder:PATH' has PATH/train/CLASS/* and PATH/test/CLASS/*")
    root = user_path(path)
    names = {entry.name for entry in _entries(root)}
    if "train" not in names:
        raise ValueError(f"{str(root)!r} has no folder 'train'")
    if not names & {"test", "val"}:
        raise ValueError(f"{str(root)!r} has neither a folder 'test' nor one 'val'")
    train, test = root / "train", root / ("test" if "test" in names else "val")
    classes = _classes(train)
    unmatched = sorted(set(classes) ^ set(_classes(test)))
    if unmatched:
        shown = ", ".join(map(repr, unmatched[:5])) + (", …" if len(unmatched) > 5 else "")
        raise ValueError(f"{str(root)!r}: classes must be the same in 'train' and {test.name!r}; in one alone: {shown}")
    if len(classes) < 2:
        raise ValueError(f"{str(train)!r} must have a folder for each of at least 2 classes; it has {len(classes)}")
    return Sources(_source(train, classes), _source(test, classes), classes)


def _classes(part: Path) -> tuple[str, ...]:
    return tuple(entry.name for entry in _entries(part) if _is(entry, os.DirEntry.is_dir))


def _source(part: Path, classes: tuple[str, ...]) -> Source:
    extensions = image_extensions()
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = [
            entry.path
            for entry in _entries(part / name)
            if Path(entry.name).suffix.lower() in extensions and _is(entry, os.DirEntry.is_file)
        ]
        if not images:
            raise ValueError(f"{str(part / name)!r} has no image")
        files += images
        labels += [label] * len(images)
    sizes = [_bytes(file) for file in files] if len(files) <= HEADER_LIMIT else None

    def read(index: int) -> np.ndarray:
        file = files[index]
        image = read_image(file, file)
        if sizes is not None and (now := _bytes(file)) != sizes[index]:
            raise ValueError(f"{file!r} has changed since it was listed: {sizes[index]:,} bytes then, {now:,} now")
        return image

    listed = sum_of_files(file[len(str(part)) + 1 :] for file in files)
    total = None if sizes is None else sum(sizes)
    return Source(np.array(labels, np.int32), lambda index: read_size(files[index], files[index]), read, listed, total)


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

    def complain(error: OSError) -> None:
        raise ValueError(f"{error.filename!r}: {error.strerror}")

    extensions, seen = image_extensions(), set()
    images: list[str] = []
    for folder, inner, files in os.walk(root, onerror=complain, followlinks=True):
        place = Path(folder).resolve()
        inner[:] = [] if place in seen else sorted(name for name in inner if not name.startswith("."))
        if place not in seen:
            names = [name for name in files if not name.startswith(".")]
            images += [str(Path(folder, name)) for name in names if Path(name).suffix.lower() in extensions]
        seen.add(place)
    return sorted(images)
