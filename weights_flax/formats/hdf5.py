"""Reader of Keras' HDF5 files."""

from functools import partial
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common_flax.optional import library
from weights_flax.formats.tensors import MOST_TENSORS, Tensor

MOST_ITEMS = 4 * MOST_TENSORS  # groups and arrays
DEEPEST = 64  # groups in groups
LARGEST_CHUNK = 2**20  # values of a piece that is larger than its array
FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # of HDF5 itself and of h5py; for any other HDF5 would load a library


def read_hdf5(path: Path) -> dict[str, Tensor]:
    """Reads the arrays of an HDF5 file of Keras, by their paths, except those of the optimizer.

    Raises:
        ValueError: h5py is not installed, or an array is stored in another file.
    """
    h5py = library("h5py", extra="keras", purpose="a file of Keras")
    tensors: dict[str, Tensor] = {}
    visited = count(1)

    def visit(name: str, item: Any) -> None:
        if next(visited) > MOST_ITEMS or name.count("/") > DEEPEST:
            raise ValueError(f"it has more than {MOST_ITEMS:,} groups and arrays, or more than {DEEPEST} in each other")
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer_weights/") or item.shape is None:
            return
        if item.external is not None or item.is_virtual:
            raise ValueError(f"{name[:100]!r} is kept in another file")
        made = item.id.get_create_plist()
        if unknown := {made.get_filter(index)[0] for index in range(made.get_nfilters())} - FILTERS:
            raise ValueError(f"{name[:100]!r} is compressed by filter {min(unknown)}, which HDF5 itself does not have")
        if item.chunks is not None and prod(item.chunks) > max(prod(item.shape), LARGEST_CHUNK):
            raise ValueError(f"{name[:100]!r} has the shape {item.shape}, in pieces of {item.chunks}")
        tensors[name.removeprefix("model_weights/")] = Tensor(item.shape, item.dtype, partial(_read, item))

    try:
        # The file stays open as long as its tensors exist, so that all are of one file if another takes its name.
        h5py.File(path, "r").visititems(visit)  # h5py follows no links here
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its HDF5 is damaged ({type(error).__name__})") from None
    if not tensors:
        raise ValueError("it has no tensors")
    return tensors


def _read(item: Any) -> np.ndarray:
    return np.asarray(item)
