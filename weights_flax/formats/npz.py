"""Reader of `.npz` files."""

import zipfile
from functools import partial
from math import prod
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from weights_flax.formats.tensors import Tensor


def read_npz(path: Path) -> dict[str, Tensor]:
    """Reads the arrays of a file of `np.savez` or `np.savez_compressed`.

    Raises:
        ValueError: the file is damaged, or has an array of objects.
    """
    tensors = {}
    archive = zipfile.ZipFile(path)  # stays open as long as its tensors exist
    for entry in archive.infolist():
        with archive.open(entry) as file:
            first = np.lib.format.read_magic(file) == (1, 0)
            read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(file)
            size = file.tell() + prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{entry.filename[:100]!r} holds objects, not numbers")
        if size != entry.file_size:
            raise ValueError(f"{entry.filename[:100]!r} has {entry.file_size:,} bytes, not {size:,}")
        # NumPy has no bfloat16, and stores its values as two bytes without a type.
        kind = np.dtype(jnp.bfloat16) if dtype == np.dtype("V2") else dtype
        tensors[entry.filename.removesuffix(".npy")] = Tensor(shape, kind, partial(_read_npy, archive, entry, kind))
    return tensors


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, dtype: np.dtype) -> np.ndarray:
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False).view(dtype)
