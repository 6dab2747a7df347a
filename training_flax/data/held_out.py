"""Parts held out of others for tests and validation: drawn by a seed, class by class, and kept in a run's folder."""

import csv
import hashlib
import io
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common_flax.files import open_regular, whole_file
from training_flax.data.source import Source, Sources, sum_of_files
from training_flax.data.stratified import draw_several, held_out_of

TEST_SHARE = 0.2
FILE = "split.csv"
HEAD = ("image", "label", "split")


@dataclass(frozen=True)
class Draw:
    """The shares of images that are held out, and the seed by which they are drawn.

    Attributes:
        test_share: of all images, if the data have no test part; None is `TEST_SHARE`.
        validation_share: of the train part; 0 holds none out.
        seed: of the draw.
        kept: the part of each image, by name, as it was drawn before; None draws.
    """

    test_share: float | None = None
    validation_share: float = 0.0
    seed: int = 0
    kept: Mapping[str, str] | None = None


def with_parts(name: str, sources: Sources, draw: Draw) -> Sources:
    """Completes the sources: holds out a test part, if they have none, and a validation part, if a share is given.

    The parts are stratified: of a class of n images share · n, rounded, are held out, at least one and at most n - 1.
    Those are taken whose names, hashed with the seed, come first; so the draw is the same on all machines.

    Args:
        name: of the data set.
        sources: of a reader; a test source that is None is drawn.
        draw: the shares and the seed.

    Raises:
        ValueError: one line: a share is given for a part that the data have already, a part would have no image, or
            images that were drawn before are missing.
    """
    own = [part for part in ("test", "validation") if getattr(sources, part) is not None]
    given = {"test": draw.test_share, "validation": draw.validation_share or None}
    for part in own:
        if given[part] is not None:
            also = "; --validation-split none leaves it out" if part == "validation" else ""
            raise ValueError(
                f"{part}_share is for data without a {part} part, and {name!r} has one{also}; given {given[part]}"
            )
    shares = {} if "test" in own else {"test": TEST_SHARE if draw.test_share is None else draw.test_share}
    if draw.validation_share:
        shares["validation"] = draw.validation_share
    if not shares:
        return sources
    whole, classes = sources.train, sources.class_names
    if draw.kept is None:
        parts, notes = _drawn(whole.labels, shares, draw.seed, classes, whole.names)
    else:
        parts, notes = _as_kept(name, whole, draw.kept, ("train", *shares))
    for part, places in parts.items():
        if not len(places):
            raise ValueError(f"{name!r}: no image is left for the {part} part; give another share, or more images")
    named = {part: tuple(whole.names[place] for place in places) for part, places in parts.items() if whole.names}
    made: dict[str, Any] = {part: _part_of(whole, places) for part, places in parts.items()}
    told = dict.fromkeys((*sources.notes, _told(shares, draw.seed, parts), *notes))
    return sources._replace(**made, notes=tuple(told), drawn=named)


def _told(shares: Mapping[str, float], seed: int, parts: Mapping[str, np.ndarray]) -> str:
    """Says the shares, the seed and the numbers of images: "split 80/20, seed 0: 480 train, 120 test"."""
    test, validation = shares.get("test", 0.0), shares.get("validation", 0.0)
    percent = {"train": (1 - test) * (1 - validation), "validation": (1 - test) * validation, "test": test}
    order = [part for part in percent if part in parts]
    split = "/".join(f"{100 * percent[part]:.3g}" for part in order)
    counts = ", ".join(f"{len(parts[part]):,} {part}" for part in order)
    return f"split {split}, seed {seed}: {counts}"


def validation_of_labels(
    labels: np.ndarray, share: float, seed: int, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Draws a validation part as `with_parts` does, of images without names, which count by their places.

    Args:
        labels: (examples,) int32 of the train part.
        share: of these images, over 0.
        seed: of the draw.
        classes: the names of the classes.

    Returns:
        The places of the images that stay, those of the validation part, and what a user should know, a line each.

    Raises:
        ValueError: a part would have no image.
    """
    parts, notes = _drawn(labels, {"validation": share}, seed, classes)
    if not len(parts["validation"]):
        raise ValueError(f"validation_share {share:g} of {len(labels)} train images leaves none for validation")
    return parts["train"], parts["validation"], [_told({"validation": share}, seed, parts), *notes]


def _drawn(
    labels_of_all: np.ndarray, shares: Mapping[str, float], seed: int, classes: Sequence[str], named: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the places of the images of each part, in order, and notes on classes that lack one."""
    names = named or tuple(map(str, range(len(labels_of_all))))
    places = np.arange(len(labels_of_all))
    parts: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for part, share in shares.items():
        taken: list[int] = []
        lacking: list[str] = []
        labels = labels_of_all[places]
        if labels.ndim == 2:
            ranks = [_rank(part, seed, names[place]) for place in places.tolist()]
            order = np.array(sorted(range(len(ranks)), key=ranks.__getitem__), int)
            there = draw_several(labels, order, share)
            parts[part], places = places[there], places[~there]
            lost = np.flatnonzero(labels.any(0) & ~labels[there].any(0))
            notes += _told_of(f"no {part} image", [classes[label] for label in lost.tolist()])
            continue
        groups = np.split(
            places[np.argsort(labels, kind="stable")], np.bincount(labels, minlength=len(classes)).cumsum()
        )
        for name, own in zip(classes, groups, strict=False):  # behind the classes stands an empty group
            count = held_out_of(len(own), share)
            if len(own) and not count:
                lacking.append(name)
            taken += sorted(own.tolist(), key=lambda place: _rank(part, seed, names[place]))[:count]
        parts[part] = np.array(sorted(taken), int)
        places = np.setdiff1d(places, parts[part])
        notes += _told_of("one train image, which stays", lacking)
    return {"train": places, **parts}, notes


def _told_of(what: str, classes: Sequence[str]) -> list[str]:
    """Returns a line that counts the classes that have something, and names some; none if there are no such classes."""
    shown = ", ".join(map(repr, classes[:3])) + (", …" if len(classes) > 3 else "")
    return (
        [f"{len(classes):,} {'class has' if len(classes) == 1 else 'classes have'} {what}: {shown}"] if classes else []
    )


def _rank(part: str, seed: int, name: str) -> bytes:
    # Disks of macOS spell letters with accents in another form; the part is the same on all of them.
    text = f"{part}\0{seed}\0{unicodedata.normalize('NFC', name)}"
    return hashlib.sha256(os.fsencode(text)).digest()


def _part_of(source: Source, places: np.ndarray) -> Source:
    """Returns the images of a source at these places."""
    picked: list[int] = places.tolist()
    part = source._replace(
        labels=source.labels[places],
        size=lambda index: source.size(picked[index]),
        read=lambda index: source.read(picked[index]),
    )
    if not source.names:
        return part
    names = tuple(source.names[place] for place in picked)
    sizes = None if source.sizes is None else tuple(source.sizes[place] for place in picked)
    total = None if sizes is None else sum(sizes)
    paths = [source.paths[place] for place in picked]
    return part._replace(files=sum_of_files(names), bytes=total, paths=paths, names=names, sizes=sizes)


def _as_kept(
    name: str, source: Source, kept: Mapping[str, str], parts: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the places of the images of each part as they were drawn before; others are left out, with a note."""
    if set(kept.values()) - {*parts}:
        raise ValueError(f"{name!r} has a part of its own now that this run has drawn from all images; remove it")
    gone = kept.keys() - set(source.names)
    if gone:
        raise ValueError(
            f"{name!r}: {_counted(sorted(gone))} of this run's split {'is' if len(gone) == 1 else 'are'} missing; put "
            "back what was moved, renamed or removed, or begin a new run"
        )
    places: dict[str, list[int]] = {part: [] for part in parts}
    new: list[str] = []
    for place, image in enumerate(source.names):
        part = kept.get(image)
        if part is None:
            new.append(image)
        else:
            places[part].append(place)
    notes = [f"{_counted(new)} came after the split was drawn, and {'is' if len(new) == 1 else 'are'} left out"]
    return {part: np.array(found, int) for part, found in places.items()}, notes if new else []


def _counted(names: Sequence[str]) -> str:
    return f"{len(names):,} image{'s' * (len(names) > 1)} ({', '.join(map(repr, names[:3]))}{', …' * (len(names) > 3)})"


def write_split(run: Path, drawn: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]]) -> None:
    """Writes the file split.csv of a run: a line for each image with its name, its class and its part.

    Args:
        run: the run's folder.
        drawn: the names of the images of each part.
        labels: their classes.
    """
    with whole_file(run / FILE) as path, path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(HEAD)
        for part, names in drawn.items():
            writer.writerows((image, label, part) for image, label in zip(names, labels[part], strict=True))


def read_split(run: Path, sums: Mapping[str, str | None]) -> dict[str, str] | None:
    """Reads the part of each image from a run's split.csv; returns None if the run has none.

    Args:
        run: the run's folder.
        sums: `sum_of_files` of the images of each part, as config.json has them.

    Raises:
        ValueError: `'RUN/split.csv' is damaged: …`, one line.
    """
    path = run / FILE
    if not path.is_file():
        return None
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8", "surrogateescape")
        head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(head) != HEAD or any(len(row) != 3 or row[2] not in ("train", "validation", "test") for row in rows):
            raise ValueError("it is not what was written")
        for part in {"train", *(row[2] for row in rows)}:
            if sum_of_files(image for image, _, of in rows if of == part) != sums.get(part):
                raise ValueError(f"its images for {part} are not those that config.json tells of")
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from None
    return {image: part for image, _, part in rows}
