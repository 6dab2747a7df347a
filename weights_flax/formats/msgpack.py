"""Reader and writer of the files that `flax.serialization` reads."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from weights_flax.formats.card import MARK, card_text
from weights_flax.formats.tensors import Tensor, as_dict

FIRST = "params"  # the key of the card, and of the tree's parameters behind it


def read_msgpack(path: Path) -> tuple[dict[str, Any], str, bool]:
    """Reads the tree of a file of `flax.serialization.to_bytes`, with `Tensor` leaves.

    Returns:
        The tree; the card in JSON, empty if the file has none; and True if a card with check sums was written.

    Raises:
        ValueError: the file is damaged.
    """
    import msgpack

    cards: list[str] = []

    def extension(code: int, data: bytes) -> Any:
        if code != 1:  # the other codes are scalars and complex numbers, which no network here has
            return None
        shape, dtype, buffer = msgpack.unpackb(data, raw=True, max_array_len=32, max_map_len=0)
        return _array(tuple(shape), np.dtype(jnp.dtype(dtype.decode())), buffer)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(items) > 1 and items[0][0] == items[1][0] == FIRST and isinstance(items[0][1], str):
            cards.append(items[0][1])
        return dict(items)

    data = path.read_bytes()
    try:
        # Lists are only shapes here. msgpack allocates a list before reading it, so its length must be limited.
        limits = {"max_array_len": 4096, "max_map_len": 2**20}
        tree = msgpack.unpackb(data, ext_hook=extension, object_pairs_hook=pairs, raw=False, **limits)
    except (msgpack.UnpackException, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"its msgpack is damaged ({type(error).__name__})") from None
    return as_dict(tree), cards[-1] if cards else "", MARK in data


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


def _array(shape: tuple[int, ...], dtype: np.dtype, buffer: bytes) -> Tensor:
    if dtype.hasobject or prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"a tensor of shape {shape} and type {dtype} has {len(buffer):,} bytes")
    return Tensor(shape, dtype, lambda: np.frombuffer(buffer, dtype).reshape(shape))
