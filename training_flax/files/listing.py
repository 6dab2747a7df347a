"""Files in folders: those of a class, and the images that a command line names."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from training_flax.files.image_files import image_extensions

LONGEST_LINE = 2**16  # characters of a path on stdin

# Folders that storage systems, archives and tools make, and fill with files of their own.
SYSTEM_FOLDERS = {
    *("@eadir", "@recycle", "@recently-snapshot", "@snapshot", "@tmp", "@__thumb", "@__qini", "#recycle", "#snapshot"),
    *("~snapshot", "$recycle.bin", "system volume information", "lost+found", "found.000", "__macosx", "__pycache__"),
    *("network trash folder", "temporary items"),
}


def entries_of(path: Path) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder, without hidden ones, sorted by name."""
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{str(path)!r}: {error.strerror}") from None


def is_a(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    """True if an entry, or a link's target, is of this kind: a file or a folder. Broken links raise ValueError."""
    try:
        if entry.is_symlink():  # raises for a broken link; other entries need no access to the disk
            entry.stat()
        return kind(entry)
    except OSError as error:
        raise ValueError(f"{entry.path!r}: {error.strerror}") from None


def of_a_system(entry: os.DirEntry[str]) -> bool:
    """Tells if an entry has a name of `SYSTEM_FOLDERS`."""
    return entry.name.lower() in SYSTEM_FOLDERS


class Whole:
    """The class folders of all parts: no folder of one class, linked to or not, counts as a part of another class.

    Args:
        parts: the folders of classes' folders.
        classes: the classes' folders.
    """

    def __init__(self, parts: Iterable[Path], classes: Iterable[Path]):
        self.classes = {os.path.realpath(path) for path in classes}
        tops = {os.path.realpath(path) for path in parts}
        self.above = tops | {str(path) for place in tops | self.classes for path in Path(place).parents}

    def is_of(self, real: str, own: str) -> bool:
        """Tells if a folder belongs to the class in the folder `own`; both are real paths.

        A folder of another class does not, nor one that holds classes' folders.
        """
        nearest = next((place for place in (real, *map(str, Path(real).parents)) if place in self.classes), own)
        return nearest == own and real not in self.above


def files_below(root: Path, whole: Whole) -> tuple[list[str], list[str]]:
    """Returns the regular files of a class, in its folder and subfolders, and what is passed over.

    These are other kinds of files, folders of `SYSTEM_FOLDERS`, and links and folders that lead to other classes. The
    order is torchvision's: folders sorted by path, and their files by name.
    """
    files: dict[str, list[str]] = {}
    others: list[str] = []
    own, seen = os.path.realpath(root), set()
    waiting = [root]
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) in seen:  # a link to a folder of the same class
            continue
        seen.add(real)
        if real != own and not whole.is_of(real, own):
            others.append(str(place))
            continue
        files[str(place)] = []
        for entry in entries_of(place):
            if is_a(entry, os.DirEntry.is_dir):
                if of_a_system(entry):
                    others.append(entry.path)
                else:
                    waiting.append(Path(entry.path))
            elif is_a(entry, os.DirEntry.is_file):
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
            paths += images_below(path) if Path(path).is_dir() else [path]
    if not paths:
        raise ValueError(f"there is no image in {', '.join(map(repr, given))}")
    return paths


def images_below(root: str) -> list[str]:
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


def lines_of(stream: IO[str]) -> Iterator[str]:
    """Yields the lines of a stream, but not one without an end, as a device gives it."""
    while line := stream.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise ValueError(f"a path on stdin has {LONGEST_LINE:,} characters or more")
        yield line
