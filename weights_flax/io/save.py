"""Weights out, with what they belong to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import serialization

from common_flax.checks import one_of
from common_flax.errors import one_line
from common_flax.files import whole_file
from layers_flax import from_torch, to_torch
from weights_flax.formats.torch import write_torch
from weights_flax.io.archs import describe

FORMATS = (".safetensors", ".npz", ".pt", ".pth", ".th", ".msgpack")


def make_card(
    model: nn.Module,
    *,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_shape: Sequence[int] | None = None,
    licence: str | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """What a file says of its network: "arch", "options", "num_classes", and what is given.

    Arguments as in `save_weights`. "arch" is missing where no constructor makes such a network.
    """
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
    return {name: value for name, value in card.items() if value is not None}


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

    The file's ending says in which format: .safetensors under PyTorch's names and layouts, with a card of the network;
    .npz under Flax's paths, with the card; .pt, .pth or .th, a state dict for `torch.load(…, weights_only=True)`, and
    .msgpack, a tree for `flax.serialization`, without a card. The same variables give the same bytes.

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}.
        path: the file, which appears when it is whole.
        class_names: one for each class.
        mean, std: what images, of pixels from 0 to 1, are normalised with, channel by channel.
        image_shape: (height, width, channels) of the images that it was trained on.
        licence: of the weights.
        source: where they are from.

    Returns:
        The path.

    Raises:
        ValueError: the ending is none of these, the variables are not those of the model, or an argument does not fit
            it; nothing is written then.
        OSError: the file cannot be written; nothing of it stays behind.
    """
    path = Path(path)
    one_of("ending of a file of weights", path.suffix, FORMATS)
    card = make_card(
        model, class_names=class_names, mean=mean, std=std, image_shape=image_shape, licence=licence, source=source
    )
    tensors = to_torch(model, variables)
    variables = from_torch(model, tensors)  # which finds what is missing
    write_tensors(path, tensors, variables, card)
    return path


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], variables: Mapping[str, Any], card: Mapping[str, Any]
) -> None:
    """Writes a network under PyTorch's names or as Flax's variables, by what the format is read with."""
    if path.suffix in (".pt", ".pth", ".th"):
        write_torch(path, tensors)
        return
    with whole_file(path) as file:
        if path.suffix == ".safetensors":
            write_safetensors(file, tensors, card)
        elif path.suffix == ".msgpack":
            file.write_bytes(serialization.to_bytes(dict(variables)))
        else:
            _write_npz(file, variables, card)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """A file of safetensors. The card is one entry of its metadata, in JSON.

    The library writes several entries in no fixed order, and the same weights would not give the same file.

    Raises:
        OSError: the file cannot be written: the disk is full, or there is a limit to its size.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(tensors), path, {"model": json.dumps(card)})
    except SafetensorError as error:
        raise OSError(one_line(error)) from None


def _write_npz(path: Path, variables: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    arrays: dict[str, Any] = {
        "/".join(str(key.key) for key in place): _known_to_numpy(np.asarray(leaf)) for place, leaf in leaves
    }
    with path.open("wb") as file:
        np.savez(file, card=np.frombuffer(json.dumps(card).encode(), np.uint8), **arrays)


def _known_to_numpy(value: np.ndarray) -> np.ndarray:
    """bfloat16, which .npz cannot name, as float32, which holds it exactly."""
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value
