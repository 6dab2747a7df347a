"""The one writer of figures."""

from pathlib import Path
from typing import Any

from common_flax.files import whole_file


def save_figure(figure: Any, path: Path, format: str | None = None) -> None:
    """Writes a figure of Matplotlib, whole or not at all; without a format, the ending of `path` is it, or else PNG."""
    with whole_file(path) as file:
        figure.savefig(file, format=format or path.suffix[1:].lower() or "png", dpi=120)
