"""The card of a file of weights: the description of its network, and check sums of all that the file holds."""

import json
import zlib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np

from common_flax.check_sums import KEY, sealed, unsealed
from common_flax.checks import check_pixels
from common_flax.json_input import parse_object, typed
from weights_flax.formats.run import Channels, Data, Normalisation, NumClasses, Side, Text
from weights_flax.formats.tensors import Tensor

SUMS = "check_sums"
MARK = SUMS.encode()  # in the bytes of every file whose card has check sums
LIMIT = 2**24  # bytes of a card; that of a network of 1,202 layers has half a million


Option = bool | Annotated[int, msgspec.Meta(ge=-(2**24), le=2**24)] | float | Text | None


class Card(msgspec.Struct):
    """The entries of a card that this project reads; others are let through."""

    arch: Text | None = None
    options: dict[Text, Option | tuple[Option, ...]] | None = None
    num_classes: NumClasses | None = None
    class_names: tuple[str | int, ...] | None = None
    normalisation: Normalisation | None = None
    image_shape: tuple[Side, Side, Channels] | None = None
    licence: str | None = None
    source: str | None = None
    data: Data | Text | None = None
    multi_label: bool | None = None


def card_text(card: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Returns a card in JSON with the check sum of each array, by the array's name in the file, and of the card."""
    return json.dumps(sealed({**card, SUMS: {name: check_sum(values) for name, values in arrays.items()}}))


def described(
    tensors: dict[str, Tensor], text: str, *, marked: bool = False, compare: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a card, and makes each tensor compare its values with their check sum when they are read.

    Tensors of files without check sums, which are older or another project's, stay as they are.

    Args:
        tensors: by their names in the file.
        text: the card in JSON; empty if the file has none. Text that begins no JSON object is another project's.
        marked: the file's bytes have `MARK`, so its card must have check sums.
        compare: compare values; a zip file has check sums of them by itself.

    Returns:
        The tensors, and the card without check sums.

    Raises:
        ValueError: the card or the names of the tensors are not what was written.
    """
    card = _parsed(text) if text.lstrip().startswith("{") else {}
    _check(card)
    if not (marked or SUMS in text or KEY in card):
        return tensors, card
    sums = card.get(SUMS)
    try:
        plain = unsealed(card)
    except ValueError as error:
        raise ValueError(f"its card is damaged: {error}") from None
    if not isinstance(sums, dict) or KEY not in card:
        raise ValueError("its card is damaged: it lacks check sums")
    for name in sorted(tensors.keys() ^ sums.keys()):
        raise ValueError(f"it is damaged: {name[:100]!r} is {'not a name' if name in tensors else 'a name'} it had")
    if compare:
        tensors = {name: _checked(name, tensor, sums[name]) for name, tensor in tensors.items()}
    return tensors, {name: value for name, value in plain.items() if name != SUMS}


def _parsed(text: str) -> dict[str, Any]:
    try:
        return parse_object(text.encode())
    except ValueError as error:
        raise ValueError(f"its card is no JSON of ours: {error}") from None


def _check(card: Mapping[str, Any]) -> None:
    """Raises ValueError if an entry has a wrong type, or asks for more than any network needs."""
    try:
        entries = typed(dict(card), Card)
        if entries.image_shape is not None:
            check_pixels("image_shape", *entries.image_shape[:2])
    except ValueError as error:
        raise ValueError(f"its card is damaged: {error}") from None


def _checked(name: str, tensor: Tensor, expected: str) -> Tensor:
    def read() -> np.ndarray:
        values = tensor.read()
        if check_sum(values) != expected:
            raise ValueError(f"it is damaged: {name[:100]!r} has other values than were written")
        return values

    return Tensor(tensor.shape, tensor.dtype, read)


def check_sum(values: np.ndarray) -> str:
    """Returns eight hexadecimal digits: a CRC-32 of an array's type and shape, continued over its bytes in C order."""
    start = zlib.crc32(f"{values.dtype.name}{values.shape}".encode())
    return f"{zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, start):08x}"
