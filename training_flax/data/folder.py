"""Image files in folders: a data set with one folder a class, and the images that a command line names."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from training_flax.data.decode import read_image, read_size
from training_flax.data.source import Found, Source


def folder(path: str) -> Found:
    """The images PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/val/CLASS/* where there is no test folder.

    Labels count the class folders in sorted order. Images are the files with an extension of a format that Pillow
    reads; other files, hidden ones and folders in a class folder are passed over.

    Raises:
        ValueError: one line: a folder cannot be read or is missing, there are under two classes, train and test have
            different ones, a class has no image, or a link leads nowhere.
    """
    if not path:
        raise ValueError("name the folder: 'folder:PATH' has PATH/train/CLASS/* and PATH/test/CLASS/*")
    root = Path(path).expanduser()
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
    return Found(_source(train, classes), _source(test, classes), classes)


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
    return Source(
        np.array(labels, np.int32),
        lambda index: read_size(files[index], files[index]),
        lambda index: read_image(files[index], files[index]),
    )


def image_extensions() -> set[str]:
    """What the names of images end in, ".png" and the like: of all formats that Pillow reads."""
    Image.preinit()  # the usual formats first, so that they are tried first
    Image.init()
    return {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _entries(path: Path) -> list[os.DirEntry[str]]:
    """What a folder has, but for hidden files, sorted by name."""
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{str(path)!r}: {error.strerror}") from None


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    """Whether an entry, or what it links to, is a file or a folder; a link must lead somewhere."""
    try:
        if entry.is_symlink():  # others need no look at the disk
            entry.stat()
        return kind(entry)
    except OSError as error:
        raise ValueError(f"{entry.path!r}: {error.strerror}") from None


def find_images(given: Sequence[str], listed: Iterable[str]) -> list[str]:
    """The paths of the images that a command line names, in its order.

    Args:
        given: files, whatever they are; folders, which give the images in them and in their folders, sorted; and "-",
            which stands for `listed`.
        listed: lines, each a file or a folder.

    Raises:
        ValueError: nothing is given, there is no image in what is given, or a folder cannot be read.
    """
    if not given:
        raise ValueError("give images: files, folders, or - for a list of them on stdin")
    found: list[str] = []
    for name in given:
        for path in _lines(listed) if name == "-" else [name]:
            found += _images_below(path) if Path(path).is_dir() else [path]
    if not found:
        raise ValueError(f"there is no image in {', '.join(map(repr, given))}")
    return found


def _lines(listed: Iterable[str]) -> Iterator[str]:
    return (name for line in listed if (name := line.rstrip("\r\n")))


def _images_below(root: str) -> list[str]:
    """Images in a folder and the folders in it, but for hidden ones, sorted. Links are followed, to no folder twice."""

    def complain(error: OSError) -> None:
        raise ValueError(f"{error.filename!r}: {error.strerror}")

    extensions, seen = image_extensions(), set()
    found: list[str] = []
    for folder, inner, files in os.walk(root, onerror=complain, followlinks=True):
        place = Path(folder).resolve()
        inner[:] = [] if place in seen else sorted(name for name in inner if not name.startswith("."))
        if place not in seen:
            names = [name for name in files if not name.startswith(".")]
            found += [str(Path(folder, name)) for name in names if Path(name).suffix.lower() in extensions]
        seen.add(place)
    return sorted(found)
