"""Reader of the files that `flax.serialization.to_bytes` makes."""

from math import prod
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from weights_flax.formats.tensors import Tensor, as_dict


def read_msgpack(path: Path) -> dict[str, Any]:
    """Reads the tree of a file of `flax.serialization.to_bytes`, with `Tensor` leaves.

    Raises:
        ValueError: the file is damaged.
    """
    import msgpack

    def extension(code: int, data: bytes) -> Any:
        if code != 1:  # the other codes are scalars and complex numbers, which no network here has
            return None
        shape, dtype, buffer = msgpack.unpackb(data, raw=True, max_array_len=32, max_map_len=0)
        return _array(tuple(shape), np.dtype(jnp.dtype(dtype.decode())), buffer)

    try:
        # Lists are only shapes here. msgpack allocates a list before reading it, so its length must be limited.
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=extension, raw=False, max_array_len=4096, max_map_len=2**20)
    except (msgpack.UnpackException, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"its msgpack is damaged ({type(error).__name__})") from None
    return as_dict(tree)


def _array(shape: tuple[int, ...], dtype: np.dtype, buffer: bytes) -> Tensor:
    if dtype.hasobject or prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"a tensor of shape {shape} and type {dtype} has {len(buffer):,} bytes")
    return Tensor(shape, dtype, lambda: np.frombuffer(buffer, dtype).reshape(shape))
