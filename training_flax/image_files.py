"""Image files by their names: those given, those in folders, those listed on stdin."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from training_flax.folder import image_extensions


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
            found += _in_folder(path) if Path(path).is_dir() else [path]
    if not found:
        raise ValueError(f"there is no image in {', '.join(map(repr, given))}")
    return found


def _lines(listed: Iterable[str]) -> Iterator[str]:
    return (name for line in listed if (name := line.rstrip("\r\n")))


def _in_folder(root: str) -> list[str]:
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
