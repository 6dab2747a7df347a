"""The splits of a data set of TFDS: those for training and for tests, and their files."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common_flax.errors import one_line
from training_flax.data.source import sum_of_files

NAME = r"(\w+(?:/[\w.+-]+)?)(?::(\d+\.\d+\.\d+))?"
PLACE = r"-?\d+(?:%|shard)?"
SLICE = rf"\[({PLACE})?:({PLACE})?\]"
TRAIN = ("train", "training")
TEST = ("test", "testing", "validation", "valid", "val", "dev")


def split_name(rest: str) -> tuple[str, str]:
    """Splits "NAME", "NAME/CONFIG", "NAME:VERSION" or "NAME/CONFIG:VERSION" into name and version ("" if none).

    Raises ValueError for any other form.
    """
    match = re.fullmatch(NAME, rest)
    if match is None:
        raise ValueError(
            f"data sets of TFDS are NAME or NAME:VERSION, such as cifar10 or cifar10:3.0.2; given {rest!r}"
        )
    return match[1], match[2] or ""


def without_slice(rest: str) -> tuple[str, str]:
    """Splits a slice off: "NAME[:80%]", or for short "NAME:80%", gives ("NAME", "[:80%]"); "" if there is none."""
    match = re.fullmatch(rf"({NAME})(?::(\d+%)|({SLICE}))", rest)
    if match is None and "[" in rest:
        raise ValueError(
            f"a part of the train split is named as TFDS does, such as {rest.partition('[')[0]}[:80%] or [1000:]; "
            f"given {rest!r}"
        )
    return (rest, "") if match is None else (match[1], f"[:{match[4]}]" if match[4] else match[5])


def instructions(splits: Mapping[str, Any], split: str) -> Sequence[Any]:
    """Returns the files of a split, and the records in them; raises ValueError if there is no such split."""
    there = f"the splits are {', '.join(splits)}"
    if re.search(r"\]\s*\[", split):
        raise ValueError(f"split {split!r} has two slices in a row, and may have one, such as train[:80%]; {there}")
    try:
        parts = splits[split].file_instructions
    except Exception as error:  # TFDS raises errors of several kinds
        raise ValueError(f"split {split!r}: {one_line(error)}; {there}") from None
    return [part for part in parts if part.take > 0]  # a slice that ends before it begins takes fewer than none


def count(splits: Mapping[str, Any], split: str) -> int:
    """Returns the number of examples of a split."""
    return sum(part.take for part in instructions(splits, split))


def shards(splits: Mapping[str, Any], split: str) -> list[Path]:
    """Returns the files of the whole splits that a split takes examples of, sorted."""
    used = {os.fspath(part.filename) for part in instructions(splits, split)}
    files = [[os.fspath(file) for file in info.filepaths] for info in splits.values()]
    return sorted(Path(file) for part in files if used.intersection(part) for file in part)


def sum_of_shards(folder: Path, splits: Mapping[str, Any], split: str) -> str:
    """Returns the hash of the names of a split's files, with the data set's version, and of a part's own name."""
    names = [f"{folder.name}/{shard.name}" for shard in shards(splits, split)]
    return sum_of_files([*names, *([split] * (split not in splits))])


def choose_splits(
    splits: Mapping[str, Any],
    name: str,
    cut: str,
    train: str | None,
    test: str | None,
    is_labelled: Callable[[str, str], bool],
) -> tuple[str, str]:
    """Returns the splits for training and for tests.

    Args:
        splits: TFDS's.
        name: of the data set.
        cut: a slice of the train split; "" if none is given.
        train, test: as the user names them; None for the usual ones.
        is_labelled: tells if all examples of a split have labels; its first argument is the train split.

    Raises:
        ValueError: one line: no split is left.
    """
    there = [split for split, info in splits.items() if info.num_examples]
    listed = f"it has {', '.join(splits)}"
    if train is None:
        train = next(iter(_usual(there, TRAIN)), None)
        if train is None:
            raise ValueError(f"no split 'train'; {listed}; name one with --train-split")
        whole = train
        train += cut
    elif match := re.fullmatch(rf"(\w+)({SLICE})", train):
        whole, cut = match[1], match[2]
    else:
        whole, cut = train, ""
    if test is not None:
        return train, test
    for split in _usual(there, TEST):
        if split != whole and is_labelled(train, split):
            return train, split
    rest = _rest(whole, cut)
    if rest and count(splits, rest):
        return train, rest
    if cut:
        raise ValueError(
            f"{train!r} is all of {whole!r}, and nothing is left for tests; take less, such as {whole}[:80%], or name "
            f"a split with --test-split; {listed}"
        )
    raise ValueError(
        f"no split with labels to test on; {listed}; hold out a fifth of it with --data 'tfds:{name}[:80%]', or "
        "name a split with --test-split"
    )


def _usual(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Returns the names that are among those wanted, in any case of letters, in the order of the wanted ones."""
    return [name for each in wanted for name in names if name.lower() == each]


def _rest(split: str, cut: str) -> str:
    """Returns the part of a split that a slice leaves out, as TFDS spells it; "" if that is nothing."""
    match = re.fullmatch(SLICE, cut)
    start, end = match.groups() if match else (None, None)
    return "+".join([*([f"{split}[:{start}]"] if start else []), *([f"{split}[{end}:]"] if end else [])])


def notes(splits: Mapping[str, Any], train: str, test: str) -> list[str]:
    """Returns lines that say which splits were taken, if not train and test, and whether they overlap."""
    lines = [] if (train, test) == ("train", "test") else [f"trains on {train}, tests on {test}"]
    taken = [(part.filename, part.skip, part.skip + part.take) for part in instructions(splits, train)]
    shared = 0
    for part in instructions(splits, test):
        for file, start, end in taken:
            if file == part.filename:
                shared += max(0, min(end, part.skip + part.take) - max(start, part.skip))
    if shared:
        lines.append(f"{shared:,} of the test images are train images too")
    return lines
