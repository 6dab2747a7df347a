"""Writing of weights to files, together with a card that says what network they belong to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn, serialization

from common_flax.checks import one_of
from common_flax.errors import one_line
from common_flax.files import whole_file
from layers_flax import from_torch, to_torch
from weights_flax.formats.torch import write_torch
from weights_flax.io.archs import describe

FORMATS = (".safetensors", ".npz", ".pt", ".pth", ".th", ".msgpack")


def save_weights(
    model: nn.Module,
    variables: Mapping[str, Any],
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_shape: Sequence[int] | None = None,
    licence: str | None = None,
    source: str | None = None,
) -> Path:
    """Writes the variables of `model` to a file that `load_weights` and `load_model` read.

    The ending of the file chooses the format. A .safetensors file has PyTorch's names and layouts, an .npz file has
    Flax's paths, and both have a card that describes the network. Files without a card are .pt, .pth and .th, a state
    dict for `torch.load(…, weights_only=True)`, and .msgpack, a tree for `flax.serialization`. The card has "arch"
    (left out if no constructor makes such a network), "options", "num_classes" and the optional arguments. The same
    variables give the same bytes.

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}.
        path: the file, which appears only when it is complete.
        class_names: one for each class.
        mean, std: one number a channel, to normalise images with pixels from 0 to 1.
        image_shape: (height, width, channels) of the images that the network was trained on.
        licence: of the weights.
        source: the origin of the weights.

    Returns:
        The path.

    Raises:
        ValueError: the ending is none of these, the variables are not those of the model, or an argument does not fit
            it; nothing is written then.
        OSError: the file cannot be written; no part of it stays behind.
    """
    path = Path(path)
    one_of("ending of a file of weights", path.suffix, FORMATS)
    arch, options = describe(model)
    num_classes: int = getattr(model, "num_classes")  # noqa: B009
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"class_names must be {num_classes}, one for each class; given {len(class_names)}")
    if (mean is None) != (std is None):
        raise ValueError(f"give mean and std, or neither; given mean={mean!r}, std={std!r}")
    card: dict[str, Any] = {"arch": arch, "options": options, "num_classes": num_classes}
    card |= {"class_names": None if class_names is None else list(class_names)}
    card |= {"normalisation": None if mean is None or std is None else {"mean": list(mean), "std": list(std)}}
    card |= {"image_shape": None if image_shape is None else list(image_shape), "licence": licence, "source": source}
    card = {name: value for name, value in card.items() if value is not None}
    tensors = to_torch(model, variables)
    variables = from_torch(model, tensors)  # raises an error for missing variables
    if path.suffix in (".pt", ".pth", ".th"):
        write_torch(path, tensors)
        return path
    with whole_file(path) as file:
        if path.suffix == ".safetensors":
            _write_safetensors(file, tensors, card)
        elif path.suffix == ".msgpack":
            file.write_bytes(serialization.to_bytes(dict(variables)))
        else:
            _write_npz(file, variables, card)
    return path


def _write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """Writes a file of safetensors, with the card in JSON as the only entry of its metadata.

    The library writes several entries in random order, so that the same weights would give different files.

    Raises:
        OSError: the file cannot be written: the disk is full, or the file exceeds a limit of its size.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(tensors), path, {"model": json.dumps(card)})
    except SafetensorError as error:
        raise OSError(one_line(error)) from None


def _write_npz(path: Path, variables: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    arrays: dict[str, Any] = {}
    for place, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        value = np.asarray(leaf)
        # .npz does not support bfloat16; float32 holds its values exactly.
        value = value.astype(np.float32) if value.dtype.name == "bfloat16" else value
        arrays["/".join(str(key.key) for key in place)] = value
    with path.open("wb") as file:
        np.savez(file, card=np.frombuffer(json.dumps(card).encode(), np.uint8), **arrays)
