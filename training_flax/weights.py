"""Files of weights, read for a network and checked against it."""

from pathlib import Path
from typing import Any

from flax import linen as nn
from safetensors import SafetensorError
from safetensors.numpy import load_file

from weights_flax.archs import from_torch


def weights_file(source: Path) -> Path:
    """The file of weights that `source`, a file or the folder of a run, names: of a run the averaged ones, if any.

    Raises:
        ValueError: there is none.
    """
    path = source
    if source.is_dir():
        averaged = source / "model_ema.safetensors"
        path = averaged if averaged.is_file() else source / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"weights {str(source)!r}: there is no file {str(path)!r}")
    return path


def read_weights(source: Path, model: nn.Module, arch: str) -> dict[str, Any]:
    """The variables of `model` out of a file of weights, or out of the folder of a run.

    Raises:
        ValueError: the file cannot be read, or is of another network; the first names that do not fit are told.
    """
    path = weights_file(source)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights {str(path)!r} cannot be read: {error}") from None
    try:
        return dict(from_torch(model, tensors))
    except ValueError as error:
        raise ValueError(f"weights {str(path)!r} are not those of {arch}: {error}") from None
