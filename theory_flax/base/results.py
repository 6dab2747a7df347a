"""Results as JSON: frozen dataclasses of numbers, names and arrays."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common_flax.files import whole_file


def as_json(value: Any) -> Any:
    """Converts a result for `json`: dataclasses and named tuples by field, arrays to lists, nan to null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if hasattr(value, "__array__"):
        return as_json(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def save_result(result: Any, path: Path, **about: Any) -> None:
    """Writes the fields `about`, then the result, to a file that appears only when it is complete."""
    text = json.dumps(as_json({**about, "result": result}), indent=1, allow_nan=False)
    with whole_file(path) as file:
        file.write_text(text + "\n")
