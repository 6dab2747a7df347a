"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow."""

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common_flax.errors import one_line
from common_flax.files import user_path
from common_flax.optional import not_installed
from training_flax.data.decode import read_image, read_size
from training_flax.data.records import Features, Records, choose_features, open_records
from training_flax.data.source import CHUNK, MEMORY_LIMIT, Source, Sources, sum_of_files

NAME = r"(\w+(?:/[\w.+-]+)?)(?::(\d+\.\d+\.\d+))?"
PLACE = r"-?\d+(?:%|shard)?"
SLICE = rf"\[({PLACE})?:({PLACE})?\]"
TRAIN = ("train", "training")
TEST = ("test", "testing", "validation", "valid", "val", "dev")


def data_folder(data_dir: str | Path | None) -> Path:
    """Returns the folder of prepared data sets: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return user_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


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


def _without_slice(rest: str) -> tuple[str, str]:
    """Splits a slice off: "NAME[:80%]", or for short "NAME:80%", gives ("NAME", "[:80%]"); "" if there is none."""
    match = re.fullmatch(rf"({NAME})(?::(\d+%)|({SLICE}))", rest)
    if match is None and "[" in rest:
        raise ValueError(
            f"a part of the train split is named as TFDS does, such as {rest.partition('[')[0]}[:80%] or [1000:]; "
            f"given {rest!r}"
        )
    return (rest, "") if match is None else (match[1], f"[:{match[4]}]" if match[4] else match[5])


class _DataSet(NamedTuple):
    """A data set in its folder.

    Attributes:
        folder: of one version.
        stored: the format of its files.
        info: TFDS's DatasetInfo.
        features: the image and the label of each example.
    """

    folder: Path
    stored: str
    info: Any
    features: Features

    def instructions(self, split: str) -> Sequence[Any]:
        """Returns the files of a split, and the records in them; raises ValueError if there is no such split."""
        try:
            return self.info.splits[split].file_instructions
        except Exception as error:  # TFDS raises errors of several kinds
            there = ", ".join(self.info.splits)
            raise ValueError(f"split {split!r}: {one_line(error)}; the splits are {there}") from None

    def records(self, split: str) -> Records:
        """Opens the records of a split; raises ValueError if it has none."""
        instructions = self.instructions(split)
        if not instructions:
            raise ValueError(f"split {split!r} has no examples")
        return open_records(self.stored, instructions)

    def is_labelled(self, split: str) -> bool:
        """Tells if a split has labels; those of some test splits, such as ImageNet's, are all -1."""
        [record] = self.records(split).__getitems__([0])
        label = self.features.parse(record, f"{split} 0")[1]
        return not (self.features.kind == "class" and label < 0)


class _Read(NamedTuple):
    """The records of a split, with all that the one pass over them keeps."""

    records: Records
    labels: list[Any]  # as they are stored
    images: list[Any]  # the first ones, encoded, as long as they fit into memory


def prepared(
    rest: str, data_dir: str | Path | None, *, train_split: str | None = None, test_split: str | None = None
) -> Sources:
    """Reads a data set that `python -m training_flax.prepare`, or any builder of TFDS, has made.

    Images and labels are those of `choose_features`. Grey images keep their one channel.

    Args:
        rest: see `split_name`; without a version, the newest prepared version is read. A slice behind it, as in
            "NAME[:80%]", takes a part of the train split; the rest is the test split if the data set has none.
        data_dir: see `data_folder`.
        train_split, test_split: splits as TFDS spells them, such as "train[:80%]" or "validation+test". Left out, they
            are the first of `TRAIN`, and the first of `TEST` that has labels.

    Raises:
        ValueError: one line: the data set is not prepared, is in a format that is not read, or lacks these splits or
            such features.
    """
    whole, cut = _without_slice(rest)
    name, version = split_name(whole)
    if cut and train_split is not None:
        raise ValueError(f"give a slice or train_split; given {rest!r} and {train_split!r}")
    folder = _find(name, version, data_folder(data_dir))
    with _naming(folder):
        stored = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        import tensorflow_datasets as tfds

        # A builder by name may use the network, and needs code that may have changed; the folder is enough.
        info = tfds.builder_from_directory(folder).info
        data = _DataSet(folder, stored, info, choose_features(info, tfds))
        splits = _choose_splits(data, whole, cut, train_split, test_split)
        parts = [_read(data, split) for split in splits]
        names, labels = data.features.classes([part.labels for part in parts])
        train, test = (_source(data, *part) for part in zip(splits, parts, labels, strict=True))
        return Sources(train, test, names, _notes(data, *splits))


def _choose_splits(data: _DataSet, name: str, cut: str, train: str | None, test: str | None) -> tuple[str, str]:
    """Returns the splits for training and for tests; arguments as of `prepared`."""
    there = {split: info.num_examples for split, info in data.info.splits.items() if info.num_examples}
    listed = f"it has {', '.join(data.info.splits)}"
    if train is None:
        train = next((split for split in TRAIN if split in there), None)
        if train is None:
            raise ValueError(f"no split 'train'; {listed}; name one with --train-split")
        held_out = _rest(train, cut) or None
        train += cut
    else:
        held_out = None
    if test is None:
        usual = [split for split in TEST if split in there and split != train]
        test = next((split for split in usual if data.is_labelled(split)), held_out)
    if test is None:
        raise ValueError(
            f"no split with labels to test on; {listed}; hold out a fifth of it with --data 'tfds:{name}[:80%]', or "
            "name a split with --test-split"
        )
    return train, test


def _rest(split: str, cut: str) -> str:
    """Returns the part of a split that a slice leaves out, as TFDS spells it; "" if that is nothing."""
    match = re.fullmatch(SLICE, cut)
    start, end = match.groups() if match else (None, None)
    return "+".join([*([f"{split}[:{start}]"] if start else []), *([f"{split}[{end}:]"] if end else [])])


def _notes(data: _DataSet, train: str, test: str) -> tuple[str, ...]:
    """Returns lines that say which splits were taken, if not train and test, and whether they overlap."""
    notes = [] if (train, test) == ("train", "test") else [f"trains on {train}, tests on {test}"]
    taken = [(part.filename, part.skip, part.skip + part.take) for part in data.instructions(train)]
    shared = 0
    for part in data.instructions(test):
        for file, start, end in taken:
            if file == part.filename:
                shared += max(0, min(end, part.skip + part.take) - max(start, part.skip))
    if shared:
        notes.append(f"{shared:,} of the test images are train images too")
    return tuple(notes)


def _shards(data: _DataSet, split: str) -> list[Path]:
    """Returns the files of the splits that a split names."""
    return sorted(shard for name in _named(data, split) for shard in data.folder.glob(f"*-{name}.{data.stored}*"))


def _named(data: _DataSet, split: str) -> list[str]:
    return [name for name in data.info.splits if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", split)]


def _sum_of_shards(data: _DataSet, split: str) -> str:
    """Returns the hash of the names of a split's files, with the data set's version, and of a part's own name."""
    names = [f"{data.folder.name}/{shard.name}" for shard in _shards(data, split)]
    return sum_of_files([*names, *([split] * (split not in _named(data, split)))])


def _find(name: str, version: str, data: Path) -> Path:
    """Returns the folder of a version, or of the newest one."""
    versions = [path.name for path in (data / name).glob("*") if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    versions.sort(key=lambda text: [int(n) for n in text.split(".")])
    if version in versions or (versions and not version):
        return data / name / (version or versions[-1])
    configs = sorted({path.parent.parent.name for path in (data / name).glob("*/*.*.*/dataset_info.json")})
    if versions:
        there = f"version {version} of {name} is not prepared in {str(data)!r}; there is {', '.join(versions)}"
    elif configs:
        raise ValueError(
            f"data set {name} is prepared in {str(data)!r} in the configurations {', '.join(configs)}; name one: "
            f"tfds:{name}/{configs[0]}"
        )
    else:
        there = f"data set {name} is not prepared in {str(data)!r}"
        beside = sorted(path.name for path in (data / name).parent.glob("*") if any(path.glob("*.*.*")))
        if "/" in name and beside:
            there += f", which has its configurations {', '.join(beside)}"
    raise ValueError(f"{there}; {_how_to_prepare(name, data)}")


def _how_to_prepare(name: str, data: Path | str) -> str:
    return f"prepare it: python -m training_flax.prepare {name} --data-dir {data}"


def _read(data: _DataSet, split: str) -> _Read:
    """Reads all records once for their labels, and keeps their encoded images as long as these fit into memory."""
    records, room = data.records(split), MEMORY_LIMIT
    labels: list[Any] = []
    images: list[Any] = []
    for start in range(0, len(records), CHUNK):
        # Reading many records at a time is twelve times as fast as one by one.
        for record in records.__getitems__(range(start, min(start + CHUNK, len(records)))):
            image, label = data.features.parse(record, f"{split} {len(labels)}")
            labels.append(label)
            room -= len(image)
            if room >= 0:
                images.append(image)
    return _Read(records, labels, images)


def _source(data: _DataSet, split: str, part: _Read, labels: np.ndarray) -> Source:
    name = f"{data.folder}: {split}"

    def encoded(index: int) -> Any:
        if index < len(part.images):
            return part.images[index]
        try:
            return data.features.parse(part.records.__getitems__([index])[0], f"{split} {index}")[0]
        except Exception as error:  # array_record raises RuntimeError for a file that has changed
            raise ValueError(f"{f'{name} {index}'!r}: {one_line(error)}") from None

    def read(index: int) -> np.ndarray:
        image = encoded(index)
        if isinstance(image, np.ndarray):
            return image
        pixels = read_image(io.BytesIO(image), f"{name} {index}")
        return pixels[..., :1] if data.features.grey else pixels

    def size(index: int) -> tuple[int, int]:
        image = encoded(index)
        if isinstance(image, np.ndarray):
            return image.shape[:2]
        return read_size(io.BytesIO(image), f"{name} {index}")

    total = sum(shard.stat().st_size for shard in _shards(data, split))
    return Source(labels, size, read, _sum_of_shards(data, split), total)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turns all errors that a broken folder leads to into a ValueError of one line that names the folder."""
    try:
        yield
    except ImportError as error:
        raise not_installed(error, extra="tfds", purpose="a data set of TFDS") from None
    except Exception as error:
        raise ValueError(f"{str(folder)!r}: {one_line(error)}") from None
