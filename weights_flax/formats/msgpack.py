"""Reader and writer of the files that `flax.serialization` reads."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from weights_flax.formats.card import LIMIT, MARK, card_text
from weights_flax.formats.tensors import OpenFile, Tensor, as_dict

FIRST = "params"  # the key of the card, and of the tree's parameters behind it
MOST_PARTS = 2**17  # a training state of 1,202 layers has 40,000
DEEPEST = 32
# First bytes of values, each with its kind and the width of its number or length (of a fixed extension the length).
KINDS: dict[int, tuple[str, int]] = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), ("number", 0)),  # nothing, false and true
    **{0xC4 + power: ("bytes", 1 << power) for power in range(3)},
    **{0xC7 + power: ("extension", 1 << power) for power in range(3)},
    **{0xCA + power: ("number", 4 << power) for power in range(2)},  # floats, which no shape has
    **{0xCC + power: ("number", 1 << power) for power in range(4)},
    **{0xD0 + power: ("number", 1 << power) for power in range(4)},
    **{0xD4 + power: ("fixed", 1 << power) for power in range(5)},
    **{0xD9 + power: ("text", 1 << power) for power in range(3)},
    **{0xDC + power: ("list", 2 << power) for power in range(2)},
    **{0xDE + power: ("map", 2 << power) for power in range(2)},
}


def read_msgpack(path: Path) -> tuple[dict[str, Any], str, bool]:
    """Reads the tree of a file of `flax.serialization.to_bytes`, with `Tensor` leaves.

    Returns:
        The tree; the card in JSON, empty if the file has none; and True if a card with check sums was written.

    Raises:
        ValueError: the file is damaged, or nests or lists too much.
    """
    file = OpenFile(path)
    scanner = _Scanner(file, 0, file.size)
    try:
        tree = as_dict(scanner.value())
    except (TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"its msgpack is damaged ({type(error).__name__})") from None
    if scanner.place != file.size:
        raise ValueError(f"its msgpack is damaged: {file.size - scanner.place:,} bytes follow its end")
    return tree, scanner.card, MARK in file.read(0, LIMIT)


class _Bytes(NamedTuple):
    """The place of bytes in a file."""

    place: int
    size: int


class _Scanner:
    """A reader of msgpack that steps over the values of tensors, which stay in the file.

    Attributes:
        place: the next byte.
        card: a text under the key "params" before the parameters themselves.
    """

    def __init__(self, file: OpenFile, start: int, end: int):
        self._file, self.place, self._end = file, start, end
        self._parts = 0
        self.card = ""

    def value(self, depth: int = 0) -> Any:
        """Reads the next value: a dict, a list, a text, a number, a `Tensor`, `_Bytes`, or None for anything else."""
        self._parts += 1
        if self._parts > MOST_PARTS or depth > DEEPEST:
            raise ValueError(f"its msgpack has more than {MOST_PARTS:,} parts, or more than {DEEPEST} in each other")
        first = self._take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first < 0xC0:
            kind, size = (("map", 15), ("list", 15), ("text", 31), ("text", 31))[(first - 0x80) >> 4]
            return self._sized(kind, first & size, depth)
        if first not in KINDS:
            raise ValueError(f"its msgpack is damaged: no value begins with {first:#x}")
        kind, width = KINDS[first]
        if kind == "number":
            return int.from_bytes(self._take(width), "big", signed=first >= 0xD0)
        fixed = kind == "fixed"
        return self._sized("extension" if fixed else kind, width if fixed else self._length(width), depth)

    def _sized(self, kind: str, size: int, depth: int) -> Any:
        if kind == "map":
            pairs = [(self._key(depth), self.value(depth + 1)) for _ in range(self._count(size))]
            if len(pairs) > 1 and pairs[0][0] == pairs[1][0] == FIRST and isinstance(pairs[0][1], str):
                self.card = pairs[0][1]
            return dict(pairs)
        if kind == "list":
            return [self.value(depth + 1) for _ in range(self._count(size))]
        if kind == "text":
            if size > LIMIT:
                raise ValueError(f"its msgpack has a text of {size:,} bytes")
            return self._take(size).decode()
        code = self._take(1)[0] if kind == "extension" else None
        start, self.place = self.place, self.place + size
        if self.place > self._end:
            raise ValueError("its msgpack ends too early")
        if kind == "bytes":
            return _Bytes(start, size)
        return _tensor(self._file, start, self.place) if code == 1 else None  # no network has the other codes

    def _key(self, depth: int) -> str:
        key = self.value(depth + 1)
        if not isinstance(key, str):
            raise TypeError
        return key

    def _count(self, size: int) -> int:
        """Returns the number of parts of a list or map, which take a byte each at least."""
        if size > self._end - self.place:
            raise ValueError("its msgpack ends too early")
        return size

    def _length(self, width: int) -> int:
        return int.from_bytes(self._take(width), "big") if width else 0

    def _take(self, size: int) -> bytes:
        data = self._file.read(self.place, size) if self.place + size <= self._end else b""
        if len(data) != size:
            raise ValueError("its msgpack ends too early")
        self.place += size
        return data


def _tensor(file: OpenFile, start: int, end: int) -> Tensor:
    """Reads the description of an array: a list of its shape, its type and its bytes."""
    shape, name, data = _Scanner(file, start, end).value()
    if isinstance(name, _Bytes):
        name = file.read(name.place, min(name.size, 32)).decode()
    dtype = np.dtype(jnp.dtype(name))
    shape = tuple(shape)
    if not all(isinstance(size, int) and size >= 0 for size in shape) or len(shape) > 32:
        raise ValueError(f"its msgpack has a tensor of shape {str(shape)[:60]}")
    if dtype.hasobject or prod(shape) * dtype.itemsize != data.size:
        raise ValueError(f"a tensor of shape {shape} and type {dtype} has {data.size:,} bytes")

    def read() -> np.ndarray:
        return np.frombuffer(file.read(data.place, data.size), dtype).reshape(shape)

    return Tensor(shape, dtype, read)


def write_msgpack(
    path: Path, variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]
) -> None:
    """Writes variables as `flax.serialization.to_bytes` does, with a card that Flax does not see.

    The card is a first entry under the key that the parameters have too. Of entries with one key readers of msgpack
    keep the last, so `msgpack_restore` and `from_bytes` give the variables alone.

    Args:
        path: the file.
        variables: {"params", "batch_stats"}.
        arrays: their leaves by paths, "params/conv1/kernel".
        card: the description of the network.

    Raises:
        OSError: the file cannot be written.
    """
    import msgpack
    from flax import serialization

    data = serialization.to_bytes({FIRST: variables[FIRST], **variables})  # begins with the number of entries
    with path.open("wb") as file:
        file.write(bytes([data[0] + 1]) + msgpack.packb(FIRST) + msgpack.packb(card_text(card, arrays)))
        file.write(memoryview(data)[1:])
