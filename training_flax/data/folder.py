"""Image files in folders: data sets with one folder per class."""

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from common_flax.files import user_path
from common_flax.terminal import plain_text
from training_flax.data.source import HEADER_LIMIT, Source, Sources, of_files, size_of_image
from training_flax.files.image_files import image_extensions
from training_flax.files.layout import class_folders, layout_of
from training_flax.files.listing import Whole, entries_of, files_below, is_a


def folder(
    path: str,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    validation_split: str | None = None,
    strict: bool = False,
) -> Sources:
    """Reads the images PATH/train/CLASS/** and PATH/test/CLASS/**, or PATH/CLASS/**: see `layout_of`.

    A label is the position of the class folder in sorted order. Images are the files with an extension of a format in
    `image_files` that begin as one, in the class folder or below it. Other files are passed over, and listed in the
    result, as are links that lead to other classes; hidden ones and folders of `SYSTEM_FOLDERS` do not count. An
    image whose size in bytes has changed since it was listed is an error, if there are at most `HEADER_LIMIT` images;
    of more, only the names are looked at.

    Args:
        path: the folder PATH.
        train_split, test_split, validation_split: names of the folders to take, in place of the usual ones.
        strict: a file that is no image is an error.

    Returns:
        The sources, without a test part if there is none: `held_out` draws it.

    Raises:
        ValueError: one line: a folder is missing or cannot be read, the parts have different classes, a class has no
            image, or a link is broken; or the errors of `layout_of`.
    """
    if not path:
        raise ValueError("name the folder: 'folder:PATH' has PATH/CLASS/*, or PATH/train/CLASS/* and PATH/test/CLASS/*")
    chosen = {"train_split": train_split, "test_split": test_split, "validation_split": validation_split}
    for option, value in chosen.items():
        if value is not None and not value.strip():
            raise ValueError(f"{option} must name a folder in {path!r}; given {value!r}")
    root = user_path(path)
    layout = layout_of(root, **chosen)
    parts = {"train": layout.train, "test": layout.test, "validation": layout.validation}
    places = {part: place for part, place in parts.items() if place is not None}
    classes, folders = class_folders(layout.train), {}
    for part, place in places.items():
        there = class_folders(place)
        if unmatched := sorted(classes.keys() ^ there.keys()):
            shown = ", ".join(map(repr, unmatched[:5])) + (", …" if len(unmatched) > 5 else "")
            raise ValueError(
                f"{str(root)!r}: classes must be the same in {layout.train.name!r} and {place.name!r}; "
                f"in one alone: {shown}"
            )
        folders[part] = [there[name] for name in classes]
    real = {part: [os.path.realpath(place) for place in each] for part, each in folders.items()}
    if len(set(real["train"])) < len(real["train"]):
        one, other = (folders["train"][place] for place in _equal(real["train"]))
        raise ValueError(f"{str(one)!r} and {str(other)!r} are one folder, and cannot be two classes")
    whole = Whole(places.values(), chain(*folders.values()))
    sources: dict[str, Source] = {}
    passed: list[str] = []
    notes = [*layout.notes]
    for part, place in places.items():
        sources[part], others = _source(place, folders[part], whole, strict)
        passed += others
        same = [label for label, (one, two) in enumerate(zip(real["train"], real[part], strict=True)) if one == two]
        if part != "train" and (shared := int(np.isin(sources[part].labels, same).sum())):
            own = f"{place.name!r} has folders of {layout.train.name!r}"
            notes.append(f"{shared:,} of the {part} images are train images too: {own}")
    names = _texts([place.name for place in folders["train"]])
    test, validation = sources.get("test"), sources.get("validation")
    tested = plain_text(layout.test.name) if layout.test else "test"
    return Sources(sources["train"], test, names, tuple(notes), tuple(passed), tested, validation)


def _equal(values: Sequence[str]) -> tuple[int, int]:
    """Returns the places of the first value that occurs twice."""
    second = next(place for place, value in enumerate(values) if value in values[:place])
    return values.index(values[second]), second


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
        sizes = {file: size for files in found for file in files if (size := size_of_image(file, strict)) is not None}
        passed += [file for files in found for file in files if file not in sizes]
        found = [[file for file in files if file in sizes] for files in found]
    if strict and passed:
        raise ValueError(f"{passed[0]!r} is no image of a class; without --strict it is passed over")
    for place, files in zip(classes, found, strict=True):
        if not files:
            raise ValueError(f"{str(place)!r} has no image")
    paths = [file for files in found for file in files]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in found])
    return of_files(paths, [file[len(str(part)) + 1 :] for file in paths], labels, sizes or None), passed
