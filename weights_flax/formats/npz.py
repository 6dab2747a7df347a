"""Reader and writer of `.npz` files, and reader of the arrays of NumPy in pickles."""

import re
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
from weights_flax.formats.pickles import passed
from weights_flax.formats.tensors import MOST_TENSORS, Tensor, Unfinished, open_zip

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


class PickledArray(Unfinished):
    """An array as a pickle makes it: first empty, then with its state."""

    def __init__(self, *_: Any):
        self._state: Any = ()

    def set_state(self, state: Any) -> None:
        """Takes (version, shape, dtype, in Fortran's order, bytes)."""
        self._state = state

    def tensor(self) -> Tensor | None:
        """Returns the array; None if it has other values than numbers, or its state makes no sense."""
        state = self._state
        if not (isinstance(state, tuple) and len(state) == 5):
            return None
        _, shape, kind, columns_first, data = state
        if not (isinstance(kind, PickledType) and isinstance(data, bytes | bytearray) and isinstance(shape, tuple)):
            return None
        dtype = kind.dtype()
        if dtype is None or not all(isinstance(size, int) and size >= 0 for size in shape) or len(shape) > 32:
            return None
        if prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"an array of shape {str(shape)[:60]} and type {dtype} has {len(data):,} bytes")
        order: Any = "F" if columns_first is True else "C"
        return Tensor(
            shape, dtype, lambda: np.ascontiguousarray(np.frombuffer(data, dtype).reshape(shape, order=order))
        )


class PickledType:
    """A type of NumPy as a pickle makes it."""

    def __init__(self, name: Any = None, *_: Any):
        self._name, self._order = name, "="

    def set_state(self, state: Any) -> None:
        """Takes (version, order of bytes, …)."""
        if isinstance(state, tuple) and len(state) > 1:
            self._order = state[1]

    def dtype(self) -> np.dtype | None:
        """Returns the type; None if it is none of numbers."""
        if not isinstance(self._name, str) or not re.fullmatch(r"[fiu][1248]|b1", self._name):
            return None
        order: Any = self._order if self._order in ("<", ">") else "="
        return np.dtype(self._name).newbyteorder(order)


def array_builders() -> dict[tuple[str, str], Any]:
    """Returns the builders of the names that pickles of NumPy have: arrays are read, scalars are passed over."""
    scalars = "float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool_ bool str_ ndarray"
    dtypes = "Float64DType Float32DType Float16DType Int64DType Int32DType Int16DType Int8DType UInt8DType BoolDType"
    cores = [f"numpy.{core}.multiarray" for core in ("core", "_core")]
    return {
        **{("numpy", name): passed for name in scalars.split()},
        **{("numpy.dtypes", name): PickledType for name in dtypes.split()},
        **{(core, "scalar"): passed for core in cores},
        **{(core, "_reconstruct"): PickledArray for core in cores},
        **{(f"numpy.{core}.numeric", "_frombuffer"): passed for core in ("core", "_core")},
        ("numpy", "dtype"): PickledType,
    }


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
