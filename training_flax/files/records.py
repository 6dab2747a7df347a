"""Records of the data sets that TensorFlow Datasets stores, and the image and the label in each, without TensorFlow.

A record is a serialised `tf.train.Example`, whatever the format of the files.
"""

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

CRC32C = 0x82F63B78  # the polynomial, bits reversed
HEADER = struct.Struct("<QI")  # of a TFRecord: the length of the record, and the masked check sum of these 8 bytes
FOOTER = 4  # bytes after the record: its own masked check sum


class Features(NamedTuple):
    """The image and the label of each example.

    Attributes:
        image, label: their keys.
        both: TFDS's features of these keys alone, so that no others are decoded.
        decoders: of `both`; they leave images encoded.
        grey: images have one channel.
        kind: of the label: "class", "integer" or "text".
        names: of the classes; empty if the labels themselves are the names.
        note: says which features were taken, where neither the builder nor their keys do.
    """

    image: str
    label: str
    both: Any
    decoders: dict[str, Any]
    grey: bool
    kind: str
    names: tuple[str, ...]
    note: str = ""

    def parse(self, record: bytes, name: str) -> tuple[Any, Any]:
        """Returns the image, as bytes of its file or as an array (height, width, channels), and the label.

        Raises ValueError for the empty records of a file that is cut short.
        """
        example = self.both.deserialize_example_np(record, decoders=self.decoders)
        image, label = example[self.image], example[self.label]
        if image is None or label is None:
            raise ValueError(f"record {name!r} is missing; prepare the data set anew")
        return image, label


def choose_features(info: Any, tfds: Any) -> Features:
    """Chooses the image and the label of a data set.

    They are the builder's supervised keys; else "image" and "label"; else the only image and the only label. An image
    is an Image of 8 or 16 bits, or a Tensor of uint8; a label is a ClassLabel, an integer or a Text.

    Args:
        info: TFDS's DatasetInfo.
        tfds: the library.

    Raises:
        ValueError: one line with the features that there are, and what to change.
    """
    features = dict(info.features)
    fit = {key: _fits(feature, tfds) for key, feature in features.items()}
    named = info.supervised_keys if isinstance(info.supervised_keys, tuple) and len(info.supervised_keys) == 2 else ()
    pairs = [named] if named and set(named) <= features.keys() else []
    pairs += [("image", "label")] if {"image", "label"} <= features.keys() else []
    images = [key for key, (role, _) in fit.items() if role == "image"]
    labels = [key for key, (role, detail) in fit.items() if role == "label"]
    sure = [key for key in labels if fit[key][1] == "class"]
    pairs += [(images[0], (sure or labels)[0])] if len(images) == 1 and 1 in (len(sure), len(labels)) else []
    for image, label in pairs:
        if fit[image][0] == "image" and fit[label][0] == "label":
            both = {key: features[key] for key in (image, label)}
            decoders = {image: tfds.decode.SkipDecoding()} if fit[image][1] == "encoded" else {}
            kind = fit[label][1]
            names = tuple(features[label].names or ()) if kind == "class" else ()
            grey = features[image].shape[-1] == 1
            usual = (image, label) in (named, ("image", "label"))
            note = "" if usual else f"takes the features {image!r} and {label!r}, of {', '.join(sorted(features))}"
            return Features(image, label, tfds.features.FeaturesDict(both), decoders, grey, kind, names, note)
    shown = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
    wrong = [
        f"{key!r} {fit[key][1]}" for key in dict.fromkeys(key for pair in pairs for key in pair) if not fit[key][0]
    ]
    why = "; ".join(wrong) or "the builder's supervised_keys must name them"
    raise ValueError(
        "one image (Image, or Tensor of uint8) and one label (ClassLabel, integer or Text) are needed; "
        f"it has {shown}: {why}"
    )


def _fits(feature: Any, tfds: Any) -> tuple[str, str]:
    """Returns "image" or "label" and the kind of it, or "" and the reason why a feature is neither."""
    kinds = tfds.features
    shape: tuple[Any, ...] = getattr(feature, "shape", None) or ()
    dtype = getattr(feature, "np_dtype", None)
    if isinstance(feature, kinds.Image):
        wide = dtype in (np.uint8, np.uint16)
        return ("image", "encoded") if wide else ("", f"has pixels of {np.dtype(dtype).name}: store uint8 or uint16")
    if isinstance(feature, kinds.ClassLabel):
        return "label", "class"
    if isinstance(feature, kinds.Text):
        return "label", "text"
    if isinstance(feature, kinds.Tensor) and shape == () and (dtype == np.bool_ or np.issubdtype(dtype, np.integer)):
        return "label", "integer"
    if isinstance(feature, kinds.Tensor) and len(shape) == 1:
        kind = f"is a Tensor of {np.dtype(dtype).name} {shape}"
        return "", f"{kind}, a list for each example; if it is one-hot, store the number of the class"
    if isinstance(feature, kinds.Tensor) and len(shape) == 2 and dtype == np.uint8:
        return "", f"is a Tensor of uint8 {shape}: store (height, width, 1)"
    if isinstance(feature, kinds.Tensor) and len(shape) == 3:
        if dtype == np.uint8 and shape[-1] in (1, 3):
            return "image", "array"
        return "", f"is a Tensor of {np.dtype(dtype).name} {shape}: make it an Image, or uint8 of 1 or 3 channels"
    if isinstance(feature, kinds.Sequence):
        return "", "is a Sequence, a list for each example: store one"
    return "", f"is a {type(feature).__name__}"


class Records(Protocol):
    """The records of a split. Threads may read them at the same time."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitems__(self, indices: Sequence[int]) -> Sequence[bytes]:
        """Reads the records at these indices; raises an error if a file is not what it was."""


def open_records(file_format: str, instructions: Sequence[Any]) -> Records:
    """Opens the records of a split.

    Args:
        file_format: as dataset_info.json names it.
        instructions: TFDS's `file_instructions` of the split: files, and the records to skip and to take of each.

    Raises:
        ValueError: the format is none of these, or a file is missing, cannot be read or is damaged.
    """
    if file_format in ("array_record", "parquet", "tfrecord"):
        for part in instructions:
            try:
                Path(part.filename).stat()  # the libraries' own errors do not say that a file is missing
            except OSError as error:
                raise ValueError(f"{Path(part.filename).name!r}: {error.strerror}; prepare the data set anew") from None
    if file_format == "array_record":
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(instructions)
    if file_format == "parquet":
        return _Parquet(instructions)
    if file_format == "tfrecord":
        return _TFRecords(instructions)
    raise ValueError(
        f"files of {file_format} are not read; write them once more, in another folder, by the builder's "
        "download_and_prepare(file_format='array_record')"
    )


class _Parquet:
    """Files of Parquet with a record in each row of their one column, whole in memory as TFDS holds them."""

    def __init__(self, instructions: Sequence[Any]):
        import pyarrow
        import pyarrow.parquet

        tables = [pyarrow.parquet.read_table(part.filename).slice(part.skip, part.take) for part in instructions]
        self._rows: Any = pyarrow.concat_tables(tables).column(0)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        return self._rows.take(list(indices)).to_pylist()


class _TFRecords:
    """Files of TFRecord: records one behind the other, whose places are looked up once.

    The check sums of lengths are compared, those of records are not: the decoders of images have their own.
    """

    def __init__(self, instructions: Sequence[Any]):
        self._paths = [os.fspath(part.filename) for part in instructions]
        places = []
        for number, (path, part) in enumerate(zip(self._paths, instructions, strict=True)):
            found = _places(path)
            if len(found) < part.examples_in_shard:
                raise ValueError(
                    f"{Path(path).name!r} has {len(found)} whole records of {part.examples_in_shard}; "
                    "prepare the data set anew"
                )
            found = found[part.skip : part.skip + part.take]
            places.append(np.column_stack([np.full(len(found), number), found]))
        self._places = np.concatenate(places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        records: list[bytes] = []
        last, file = -1, None
        try:
            for number, start, length in self._places[list(indices)].tolist():
                if number != last or file is None:
                    if file is not None:
                        file.close()
                    last, file = number, open(self._paths[number], "rb")  # noqa: PTH123, SIM115
                file.seek(start)
                records.append(file.read(length))
                if len(records[-1]) < length:
                    raise ValueError("the file has become shorter")
        finally:
            if file is not None:
                file.close()
        return records


def _places(path: str) -> np.ndarray:
    """Returns the start and the length in bytes of each whole record of a file of TFRecord: (records, 2) int64."""
    if not os.path.getsize(path):  # noqa: PTH202
        return np.zeros((0, 2), np.int64)
    places: list[tuple[int, int]] = []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:  # noqa: PTH123
        here, end = 0, len(data)
        while here + HEADER.size <= end:
            length, check = HEADER.unpack_from(data, here)
            if check != masked_crc(data[here : here + 8]):
                raise ValueError(f"{Path(path).name!r} is no TFRecord, or damaged, at byte {here:,}")
            if here + HEADER.size + length + FOOTER > end:
                break
            places.append((here + HEADER.size, length))
            here += HEADER.size + length + FOOTER
    return np.array(places, np.int64).reshape(-1, 2)


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (CRC32C if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def masked_crc(data: bytes) -> int:
    """Returns the check sum of TFRecord: CRC-32C, rotated and shifted by a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
