"""Reader and writer of safetensors files."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from common_flax.json_input import read_object
from weights_flax.formats.card import MARK, card_text, described
from weights_flax.formats.tensors import MOST_TENSORS, Tensor

MOST_PARTS = 256  # files that share a network
HEADER_LIMIT = 2**25  # bytes of the header; a network of 1,202 layers needs one million
TYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Reads the tensors of a file, its card, which is the entry "model" of its metadata, and the other entries.

    Raises:
        ValueError: the library cannot read the file, or the card is damaged.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > HEADER_LIMIT:
            raise ValueError(f"its header of {size:,} bytes is over {HEADER_LIMIT:,}")
        marked = MARK in file.read(size)
    try:
        # The file stays open, because opening it for each tensor would read the header each time.
        opened: Any = safe_open(path, "numpy")
        names = opened.keys()
        if len(names) > MOST_TENSORS:
            raise ValueError(f"it has {len(names):,} tensors, more than {MOST_TENSORS:,}")
        tensors = {name: _safetensor(opened, name) for name in names}
        metadata = dict(opened.metadata() or {})
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    tensors, card = described(tensors, metadata.get("model", ""), marked=marked)
    return tensors, card, {} if card else metadata


def shards_of(index: Path) -> dict[Path, list[str]]:
    """Reads an index of files that share a network, and returns the names of the tensors in each.

    Raises:
        ValueError: it is damaged, has too many parts, or a part is not a file beside it.
    """
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise ValueError("it is an index without a weight_map of names to files")
    parts: dict[Path, list[str]] = {}
    for name, place in places.items():
        if place in ("", ".", "..") or place.endswith(".json") or any(sign in place for sign in "/\\\0"):
            raise ValueError(f"its part {place[:100]!r} is not a file beside it")
        parts.setdefault(index.parent / place, []).append(name)
    if len(parts) > MOST_PARTS:
        raise ValueError(f"it has {len(parts):,} parts, more than {MOST_PARTS}")
    return parts


def _safetensor(file: Any, name: str) -> Tensor:
    part = file.get_slice(name)
    kind = part.get_dtype()
    if kind not in TYPES:
        raise ValueError(f"{name[:100]!r} is {kind}, which NumPy does not have")
    return Tensor(tuple(part.get_shape()), np.dtype(TYPES[kind]), partial(file.get_tensor, name))


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """Writes a file of safetensors, with the card in JSON as the only entry of its metadata.

    The library writes several entries in random order, so that the same weights would give different files. Its own
    files have a temporary name that stays behind when the process is killed, so it only makes the bytes.

    Raises:
        OSError: the file cannot be written: the disk is full, or the file exceeds a limit of its size.
    """
    from safetensors.numpy import save

    path.write_bytes(save(dict(tensors), {"model": card_text(card, tensors)}))
