"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow."""

import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common_flax.errors import one_line
from common_flax.files import user_path
from common_flax.optional import not_installed
from training_flax.data.decode import read_image, read_size
from training_flax.data.source import CHUNK, MEMORY_LIMIT, Source, Sources
from training_flax.data.splits import (
    choose_splits,
    instructions,
    notes,
    shards,
    split_name,
    sum_of_shards,
    without_slice,
)
from training_flax.files.records import Features, Records, choose_features, open_records


def data_folder(data_dir: str | Path | None) -> Path:
    """Returns the folder of prepared data sets: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return user_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


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

    def records(self, split: str) -> Records:
        """Opens the records of a split; raises ValueError if it has none."""
        parts = instructions(self.info.splits, split)
        if not parts:
            raise ValueError(f"split {split!r} has no examples")
        return open_records(self.stored, parts)

    def first_label(self, split: str) -> Any:
        """Returns the label of the first example."""
        [record] = self.records(split).__getitems__([0])
        return self.features.parse(record, f"{split} 0")[1]


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
            are the first of `TRAIN`, and the first of `TEST` whose examples all have labels, in any case of letters, or
            else the part of the train split that is left.

    Raises:
        ValueError: one line: the data set is not prepared, is in a format that is not read, or lacks these splits or
            such features.
    """
    whole, cut = without_slice(rest)
    name, version = split_name(whole)
    if cut and train_split is not None:
        raise ValueError(f"give a slice or train_split; given {rest!r} and {train_split!r}")
    folder = _find(name, version, data_folder(data_dir))
    with _naming(folder):
        stored = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        if not (folder / "features.json").is_file():
            raise ValueError("features.json is missing, without which nothing tells image and label; prepare it anew")
        import tensorflow_datasets as tfds

        # A builder by name may use the network, and needs code that may have changed; the folder is enough.
        info = tfds.builder_from_directory(folder).info
        data = _DataSet(folder, stored, info, choose_features(info, tfds))
        read = cache(lambda split: _read(data, split))

        def is_labelled(train: str, split: str) -> bool:
            # The first label tells of splits without any, such as ImageNet's test split, which takes long to read.
            return not any(
                _without_label(data.features, labels(), read(train).labels)
                for labels in (lambda: [data.first_label(split)], lambda: read(split).labels)
            )

        splits = choose_splits(info.splits, whole, cut, train_split, test_split, is_labelled)
        parts = [read(split) for split in splits]
        names, labels = _classes(data.features, splits, [part.labels for part in parts])
        train, test = (_source(data, *part) for part in zip(splits, parts, labels, strict=True))
        told = (*notes(info.splits, *splits), *([data.features.note] * bool(data.features.note)))
        return Sources(train, test, names, told, test_part=splits[1])


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


def _without_label(features: Features, labels: Sequence[Any], trained: Sequence[Any]) -> int:
    """Returns the number of labels that stand for none: -1, or an empty text.

    Of integers and texts they are classes if `trained`, the labels of the train split, has them too.
    """
    none: Any = b"" if features.kind == "text" else -1
    if features.kind != "class" and none in set(trained):
        return 0
    return sum(label == none for label in labels)


def _classes(
    features: Features, splits: Sequence[str], labels: Sequence[Sequence[Any]]
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Returns the names of the classes, and the labels of each split as numbers, (examples,) int32.

    Integers and texts are classes by themselves: the different ones of the train split, sorted.

    Args:
        features: the data set's.
        splits: the names of the train and the test split.
        labels: theirs, as they are stored.

    Raises:
        ValueError: a label is missing or has no class, nearly each example of the train split has a label of its own,
            there are fewer than two classes, or two have one name.
    """
    for option, split, part in zip(("--train-split", "--test-split"), splits, labels, strict=True):
        if lacking := _without_label(features, part, labels[0]):
            raise ValueError(
                f"{lacking:,} of {len(part):,} examples of split {split!r} have no label; name another with {option}"
            )
    if features.kind == "class":
        numbers = [np.array(part, np.int32) for part in labels]
        for found in numbers:
            if found.min() < 0 or found.max() >= len(features.names):
                raise ValueError(f"labels from {found.min()} to {found.max()}, of {len(features.names)} classes")
        return _checked(features.names), numbers
    values = sorted(set(labels[0]))
    if len(values) > max(2, len(labels[0]) // 2):
        raise ValueError(
            f"the label {features.label!r} has {len(values):,} values in {len(labels[0]):,} examples, and is no class"
        )
    places = {value: number for number, value in enumerate(values)}
    if new := sorted(set(labels[1]) - set(places)):
        raise ValueError(
            f"the label {_name(new[0])!r} is in the test split, and not in the train split; name others than "
            f"{splits[0]!r} and {splits[1]!r} with --train-split and --test-split"
        )
    return _checked(map(_name, values)), [np.array([places[label] for label in part], np.int32) for part in labels]


def _name(label: Any) -> str:
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    return str(int(label))  # 0 or 1 for booleans


def _checked(classes: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of classes; raises ValueError unless they are two different ones or more."""
    names = tuple(classes)
    if len(names) < 2:
        raise ValueError(f"there must be at least 2 classes; it has {len(names)}: {', '.join(names) or 'none'}")
    spelled = [unicodedata.normalize("NFC", name) for name in names]
    if len(set(spelled)) < len(spelled):
        raise ValueError(f"two classes have the name {max(spelled, key=spelled.count)!r}; rename one")
    return names


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

    total = sum(shard.stat().st_size for shard in shards(data.info.splits, split))
    return Source(labels, size, read, sum_of_shards(data.folder, data.info.splits, split), total)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turns all errors that a broken folder leads to into a ValueError of one line that names the folder."""
    try:
        yield
    except ImportError as error:
        raise not_installed(error, extra="tfds", purpose="a data set of TFDS") from None
    except Exception as error:
        raise ValueError(f"{str(folder)!r}: {one_line(error)}") from None
