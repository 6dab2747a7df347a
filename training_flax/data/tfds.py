"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow."""

import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common_flax.errors import one_line
from common_flax.files import user_path
from common_flax.optional import not_installed
from training_flax.data.decode import read_image, read_size
from training_flax.data.source import CHUNK, MEMORY_LIMIT, Source, Sources, sum_of_files


def data_folder(data_dir: str | Path | None) -> Path:
    """Returns the folder of prepared data sets: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return user_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def split_name(rest: str) -> tuple[str, str]:
    """Splits "NAME", "NAME/CONFIG", "NAME:VERSION" or "NAME/CONFIG:VERSION" into name and version ("" if none).

    Raises ValueError for any other form.
    """
    match = re.fullmatch(r"(\w+(?:/[\w.+-]+)?)(?::(\d+\.\d+\.\d+))?", rest)
    if match is None:
        raise ValueError(
            f"data sets of TFDS are NAME or NAME:VERSION, such as cifar10 or cifar10:3.0.2; given {rest!r}"
        )
    return match[1], match[2] or ""


def prepared(rest: str, data_dir: str | Path | None) -> Sources:
    """Reads a data set that `python -m training_flax.prepare` has made.

    The features are image and label; the splits are train, and test or, if test is missing or has no labels,
    validation. Grey images keep their one channel.

    Args:
        rest: see `split_name`. Without a version, the newest prepared version is read.
        data_dir: see `data_folder`.

    Raises:
        ValueError: one line: the data set is not prepared, is not in the format array_record, or lacks these splits or
            features.
    """
    name, version = split_name(rest)
    folder = _find(name, version, data_folder(data_dir))
    with _naming(folder):
        stored = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        if stored != "array_record":
            raise ValueError(f"{stored} cannot be read without TensorFlow; in another folder, {_how_to_prepare(name)}")
        import tensorflow_datasets as tfds

        # A builder by name may use the network, and needs code that may have changed; the folder is enough.
        builder = tfds.builder_from_directory(folder)
        features = dict(builder.info.features)
        image, label = features.get("image"), features.get("label")
        if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
            shown = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
            raise ValueError(f"the features image (Image) and label (ClassLabel) are needed; it has {shown}")
        if image.np_dtype != np.uint8:
            raise ValueError(f"images must be uint8; these are {np.dtype(image.np_dtype).name}")
        grey = image.shape[-1] == 1
        train, test = (
            _source(records, f"{folder}: {split}", label.num_classes, grey)._replace(
                files=_sum_of_shards(folder, split), bytes=sum(shard.stat().st_size for shard in _shards(folder, split))
            )
            for split, records in _labelled_splits(builder, tfds)
        )
        return Sources(train, test, tuple(label.names))


def _sum_of_shards(folder: Path, split: str) -> str:
    """Returns the hash of the names of a split's files, with the data set's version."""
    return sum_of_files(f"{folder.name}/{shard.name}" for shard in _shards(folder, split))


def _shards(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"*-{split}.array_record*"))


def _labelled_splits(builder: Any, tfds: Any) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """Returns names and records, with images still encoded, of the splits for training and for tests."""
    splits = {
        # Images are not decoded here, so that `read_image` decodes the images of all kinds of data sets.
        split: builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for split, info in builder.info.splits.items()
        if split in ("train", "test", "validation") and info.num_examples
    }
    # Some test splits have no labels: in ImageNet's all labels are -1.
    labelled = [split for split in splits if _label(splits[split][0], f"{split} 0") >= 0]
    tests = [split for split in ("test", "validation") if split in labelled]
    if "train" not in labelled or not tests:
        raise ValueError(f"no labelled splits train, and test or validation; it has {', '.join(builder.info.splits)}")
    return ("train", splits["train"]), (tests[0], splits[tests[0]])


def _find(name: str, version: str, data: Path) -> Path:
    """Returns the folder of a version, or of the newest one."""
    versions = [path.name for path in (data / name).glob("*") if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    versions.sort(key=lambda text: [int(n) for n in text.split(".")])
    if version in versions or (versions and not version):
        return data / name / (version or versions[-1])
    if versions:
        there = f"version {version} of {name} is not prepared in {str(data)!r}; there is {', '.join(versions)}"
    else:
        there = f"data set {name} is not prepared in {str(data)!r}"
    raise ValueError(f"{there}; {_how_to_prepare(name, data)}")


def _how_to_prepare(name: str, data: Path | str = "DIR") -> str:
    return f"prepare it: python -m training_flax.prepare {name} --data-dir {data}"


def _source(records: Any, name: str, classes: int, grey: bool) -> Source:
    """Reads all records once for their labels, and keeps their encoded images as long as these fit into memory."""
    labels = np.empty(len(records), np.int32)
    kept: list[bytes] = []
    room = MEMORY_LIMIT
    for start in range(0, len(records), CHUNK):
        # Reading many records at a time is twelve times as fast as one by one.
        for offset, record in enumerate(records.__getitems__(range(start, min(start + CHUNK, len(records))))):
            labels[start + offset] = _label(record, f"{name} {start + offset}")
            room -= len(record["image"])
            if room >= 0:
                kept.append(record["image"])
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, of {classes} classes")

    def encoded(index: int) -> io.BytesIO:
        if index < len(kept):
            return io.BytesIO(kept[index])
        try:
            return io.BytesIO(records[index]["image"])
        except Exception as error:  # array_record raises RuntimeError for a file that has changed
            raise ValueError(f"{f'{name} {index}'!r}: {one_line(error)}") from None

    def read(index: int) -> np.ndarray:
        image = read_image(encoded(index), f"{name} {index}")
        return image[..., :1] if grey else image

    return Source(labels, lambda index: read_size(encoded(index), f"{name} {index}"), read)


def _label(record: Any, name: str) -> int:
    """Returns the label of a record; raises ValueError for the empty records of a file that is cut short."""
    if record["label"] is None or record["image"] is None:
        raise ValueError(f"record {name!r} is missing; prepare the data set anew")
    return record["label"]


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turns all errors that a broken folder leads to into a ValueError of one line that names the folder."""
    try:
        yield
    except ImportError as error:
        raise not_installed(error, extra="tfds", purpose="a data set of TFDS") from None
    except Exception as error:
        raise ValueError(f"{str(folder)!r}: {one_line(error)}") from None
