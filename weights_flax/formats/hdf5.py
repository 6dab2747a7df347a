"""Reader of Keras' HDF5 files."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common_flax.optional import library
from weights_flax.formats.tensors import Tensor


def read_hdf5(path: Path) -> dict[str, Tensor]:
    """Reads the arrays of an HDF5 file of Keras, by their paths, except those of the optimizer.

    Raises:
        ValueError: h5py is not installed, or an array is stored in another file.
    """
    h5py = library("h5py", extra="keras", purpose="a file of Keras")
    tensors: dict[str, Tensor] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer_weights/"):
            return
        if item.external is not None or item.is_virtual:
            raise ValueError(f"{name[:100]!r} is kept in another file")
        tensors[name.removeprefix("model_weights/")] = Tensor(item.shape, item.dtype, partial(_read, item))

    # The file stays open as long as its tensors exist, so that all are of one file if another takes its name.
    h5py.File(path, "r").visititems(visit)  # h5py follows no links here
    if not tensors:
        raise ValueError("it has no tensors")
    return tensors


def _read(item: Any) -> np.ndarray:
    return np.asarray(item)
