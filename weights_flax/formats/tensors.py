"""Tensors whose values stay in their file until they are needed, so that names and shapes are checked first."""

import io
import os
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np

from common_flax.files import open_regular
from layers_flax.model.torch_names import to_numpy

MOST_TENSORS = 2**14  # of a file; a network of 1,202 layers has 7,000
LONGEST_NAME = 1000  # characters
ALWAYS_ALLOWED = 2**29  # bytes of all tensors together, whatever the size of their file
EXPANSION = 20  # bytes of tensors for each byte of a file; compressed weights need two at most
DEEPEST = 12  # containers in each other
LONGEST_LIST = 2**23  # bytes of the list of entries in a zip file; that of 1,202 layers has one million


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
        self._file = open_regular(path)
        weakref.finalize(self, self._file.close)  # also before Python's collector of cycles sees the file
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, place: int, size: int) -> bytes:
        """Reads `size` bytes from a place on; fewer at the end of the file."""
        self._file.seek(place)
        return self._file.read(size)


class FilePart(io.RawIOBase):
    """The bytes of a file from a place on, as a file of their own."""

    def __init__(self, file: OpenFile, start: int, size: int):
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        """Tells that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tells that places in it can be chosen."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Chooses a place, and returns it."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Reads as much as is there and goes into the buffer; returns the number of bytes."""
        wanted = min(len(buffer), max(self._size - self._at, 0))
        data = self._file.read(self._start + self._at, wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Zip(io.BufferedReader):
    """A file for `zipfile`, which reads no long list of entries."""

    longest: int | None = LONGEST_LIST

    def read(self, size: int | None = -1, /) -> bytes:
        if self.longest is not None:
            size = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
            if size > self.longest:
                raise ValueError(f"its list of entries has {size:,} bytes, more than {self.longest:,}")
        return super().read(size)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip file, which stays open as long as its archive exists.

    Raises:
        ValueError: its list of entries is so long that it would fill memory.
    """
    file: Any = _Zip(open_regular(path).detach())  # type: ignore[attr-defined]
    try:
        archive = zipfile.ZipFile(file)
    except BaseException:
        file.close()
        raise
    file.longest = None
    weakref.finalize(archive, file.close)
    return archive


def check_size(tensors: Mapping[str, Tensor], stored: int, most: int = MOST_TENSORS) -> None:
    """Raises ValueError if there are more than `most` tensors, or they need far more bytes than are `stored`.

    Compressed zeros, storages that many tensors share, and arrays of which no part was written need no room in a file.
    """
    if len(tensors) > most:
        raise ValueError(f"it has {len(tensors):,} tensors, more than {most:,}")
    if (longest := max(map(len, tensors), default=0)) > LONGEST_NAME:
        raise ValueError(f"it has a name of {longest:,} characters, more than {LONGEST_NAME:,}")
    needed = sum(prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors.values())
    if needed > max(ALWAYS_ALLOWED, EXPANSION * stored):
        raise ValueError(f"its tensors would take {needed:,} bytes, but only {stored:,} are stored")


class Unfinished:
    """An array that a pickle makes step by step."""

    def tensor(self) -> Tensor | None:
        """Returns the array; None if it holds no numbers."""
        raise NotImplementedError


def flat_tensors(content: Any) -> dict[str, Tensor]:
    """Returns the tensors of dicts and lists in each other, by the keys on the way to them, joined by "/".

    A container that stands in several places counts once, at the first.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    left: list[tuple[str, int, Any]] = [("", 0, content)]
    while left:
        path, depth, value = left.pop()
        value = value.tensor() if isinstance(value, Unfinished) else value
        if isinstance(value, Tensor) and path:
            tensors[path] = value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen and depth <= DEEPEST:
            seen.add(id(value))
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
            inside = [item for item in items if isinstance(item[1], dict | list | tuple | Tensor | Unfinished)]
            left += [(f"{path}/{key}" if path else str(key), depth + 1, inner) for key, inner in reversed(inside)]
    return tensors


def from_memory(source: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors of a PyTorch state dict, or of Flax's variables by their paths, "params/conv1/kernel".

    A checkpoint, a dict with state dicts in it, gives the tensors in all of them.
    """
    flat = source
    if any(isinstance(value, Mapping) for value in source.values()) and "params" not in source:
        flat = _arrays_in(source)
    if isinstance(source.get("params"), Mapping):
        leaves = jax.tree_util.tree_leaves_with_path({k: source[k] for k in ("params", "batch_stats") if k in source})
        flat = {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
    arrays = {name: to_numpy(value) for name, value in flat.items()}
    return {name: Tensor(array.shape, array.dtype, partial(np.array, array)) for name, array in arrays.items()}


def as_tree(value: Any) -> Any:
    """Returns the content of a file if it is a dict or a list of more than nothing, else raises ValueError."""
    return value if isinstance(value, list | tuple) and value else as_dict(value)


def as_dict(value: Any) -> dict[str, Any]:
    """Returns the content of a file if it is a dict, else raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds no dict of tensors, but a {type(value).__name__}")
    return value


def _arrays_in(source: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in source.items():
        if isinstance(value, Mapping) and depth < DEEPEST:
            flat |= {f"{key}/{name}": inner for name, inner in _arrays_in(value, depth + 1).items()}
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            flat[str(key)] = value
    return flat
