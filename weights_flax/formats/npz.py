"""Reader and writer of `.npz` files."""

import zipfile
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from weights_flax.formats.card import LIMIT, card_text, described
from weights_flax.formats.tensors import MOST_TENSORS, Tensor, open_zip

LONGEST_HEADER = 2**14  # bytes; NumPy takes 10,000, but reads longer ones first


def read_npz(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the arrays of a file of `np.savez` or `np.savez_compressed`, and its card: the bytes in "card".

    Raises:
        ValueError: the file or its card is damaged, or has an array of objects.
    """
    tensors = {}
    archive = open_zip(path)  # stays open as long as its tensors exist
    if len(archive.infolist()) > MOST_TENSORS:
        raise ValueError(f"it has {len(archive.infolist()):,} entries, more than {MOST_TENSORS:,}")
    for entry in archive.infolist():
        with archive.open(entry) as file:
            start = BytesIO(file.read(LONGEST_HEADER))
        first = np.lib.format.read_magic(start) == (1, 0)
        read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(start)
        size = start.tell() + prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{entry.filename[:100]!r} holds objects, not numbers")
        if size != entry.file_size:
            raise ValueError(f"{entry.filename[:100]!r} has {entry.file_size:,} bytes, not {size:,}")
        # NumPy has no bfloat16, and stores its values as two bytes without a type.
        kind = np.dtype(jnp.bfloat16) if dtype == np.dtype("V2") else dtype
        tensors[entry.filename.removesuffix(".npy")] = Tensor(shape, kind, partial(_read_npy, archive, entry, kind))
    card = tensors.pop("card", None)
    text = "" if card is None or card.dtype != "uint8" or card.shape[0] > LIMIT else bytes(card.read()).decode()
    return described(tensors, text, compare=False)


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, dtype: np.dtype) -> np.ndarray:
    with archive.open(entry) as file:
        values = np.lib.format.read_array(file, allow_pickle=False).view(dtype)
        file.read(1)  # at the end of an entry zipfile compares its check sum
    return values


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """Writes arrays by their names, and the card in JSON as bytes.

    Raises:
        OSError: the file cannot be written.
    """
    # .npz does not support bfloat16; float32 holds its values exactly.
    plain: dict[str, Any] = {
        name: values.astype(np.float32) if values.dtype.name == "bfloat16" else values
        for name, values in arrays.items()
    }
    with path.open("wb") as file:
        np.savez(file, card=np.frombuffer(card_text(card, plain).encode(), np.uint8), **plain)
