"""Check sums in and beside files, to notice later damage."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common_flax.files import open_regular, read_text

NAME = "check_sums.json"
KEY = "check_sum"
CHUNK = 1 << 22  # bytes


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns JSON values with a last entry "check_sum" over all others: eight hexadecimal digits of a CRC-32.

    It is taken of the values in JSON with sorted keys, so the form of the file does not count. Numbers that JSON does
    not have, NaN and the infinities, become null.
    """
    plain = json.loads(json.dumps(values), parse_constant=lambda name: None)
    values = {name: value for name, value in plain.items() if name != KEY}
    return {**values, KEY: _sum_of(values)}


def unsealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values without their check sum, or as they are if they have none.

    Raises:
        ValueError: the values are not those that were sealed.
    """
    rest = {name: value for name, value in values.items() if name != KEY}
    if KEY in values and values[KEY] != _sum_of(rest):
        raise ValueError("its content is not what was written")
    return rest


def _sum_of(values: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"


def write_check_sums(folder: Path) -> None:
    """Writes the check sums of all files in the subfolders of `folder`."""
    files = sorted(path for entry in folder.iterdir() if entry.is_dir() for path in entry.rglob("*") if path.is_file())
    (folder / NAME).write_text(json.dumps({str(path.relative_to(folder)): _crc32(path) for path in files}))


def damage(folder: Path) -> str | None:
    """Describes the first damaged file of `folder`; returns None if no file is damaged, or there are no check sums."""
    path = folder / NAME
    try:
        if not path.exists():
            return None
        for name, expected in dict(json.loads(read_text(path))).items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError
            if not (folder / name).is_file():
                return f"its file {name} is missing"
            if _crc32(folder / name) != expected:
                return f"its file {name} is not what was written"
    except (ValueError, TypeError, RecursionError):
        return f"its file {NAME} is not what was written"
    except OSError as error:
        return str(error)
    return None


def _crc32(path: Path) -> int:
    total = 0
    with open_regular(path) as file:
        while chunk := file.read(CHUNK):
            total = zlib.crc32(chunk, total)
    return total
