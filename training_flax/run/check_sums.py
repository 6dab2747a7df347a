"""Check sums of files, stored beside the files, to detect later damage."""

import json
import zlib
from pathlib import Path

NAME = "check_sums.json"
CHUNK = 1 << 22  # bytes


def write_check_sums(folder: Path) -> None:
    """Writes the check sums of all files in subfolders of `folder`; files beside the subfolders may still change."""
    files = sorted(path for entry in folder.iterdir() if entry.is_dir() for path in entry.rglob("*") if path.is_file())
    (folder / NAME).write_text(json.dumps({str(path.relative_to(folder)): _crc32(path) for path in files}))


def damage(folder: Path) -> str | None:
    """Describes the first damaged file of `folder`; returns None if no file is damaged, or there are no check sums."""
    path = folder / NAME
    try:
        if not path.exists():
            return None
        for name, expected in dict(json.loads(path.read_bytes())).items():
            if not (folder / name).is_file():
                return f"its file {name} is missing"
            if _crc32(folder / name) != expected:
                return f"its file {name} is not what was written"
    except (ValueError, TypeError):
        return f"its file {NAME} is not what was written"
    except OSError as error:
        return str(error)
    return None


def _crc32(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total = zlib.crc32(chunk, total)
    return total
