"""Tensors whose values stay in their file until they are needed, so that names and shapes are checked first."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np

from layers_flax.model.torch_names import to_numpy


@dataclass(frozen=True)
class Tensor:
    """An array that is still in its file; `np.asarray` reads it.

    Attributes:
        shape, dtype: as the file says.
        read: returns the values, an array of this shape and type.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self.read()
        return values if dtype is None else values.astype(dtype)

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> "Tensor":
        """Returns the tensor with changed values, of the same shape and type."""
        return Tensor(self.shape, self.dtype, lambda: change(self.read()).astype(self.dtype))

    def row(self, index: int) -> "Tensor":
        """Returns the part at an index of the first axis."""
        return Tensor(self.shape[1:], self.dtype, lambda: self.read()[index])

    def transpose(self, *axes: int) -> "Tensor":
        """Returns the tensor with its axes in another order."""
        shape = tuple(self.shape[axis] for axis in axes)
        return Tensor(shape, self.dtype, lambda: np.ascontiguousarray(self.read().transpose(axes)))

    def reshape(self, *shape: int) -> "Tensor":
        """Returns the tensor in another shape."""
        if prod(shape) != prod(self.shape):
            raise ValueError(f"a tensor of shape {self.shape} cannot take the shape {shape}")
        return Tensor(shape, self.dtype, lambda: self.read().reshape(shape))


class OpenFile:
    """A file that stays open as long as its tensors exist, so that all are of one file if another takes its name."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, place: int, size: int) -> bytes:
        """Reads `size` bytes from a place on; fewer at the end of the file."""
        self._file.seek(place)
        return self._file.read(size)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def from_memory(source: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors of a PyTorch state dict, or of Flax's variables by their paths, "params/conv1/kernel"."""
    flat = source
    if isinstance(source.get("params"), Mapping):
        leaves = jax.tree_util.tree_leaves_with_path({k: source[k] for k in ("params", "batch_stats") if k in source})
        flat = {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
    arrays = {name: to_numpy(value) for name, value in flat.items()}
    return {name: Tensor(array.shape, array.dtype, partial(np.array, array)) for name, array in arrays.items()}


def as_dict(value: Any) -> dict[str, Any]:
    """Returns the content of a file if it is a dict, else raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds no dict of tensors, but a {type(value).__name__}")
    return value
