"""Export of a network to one file that runs, or can be read, without this project."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from common_flax.checks import check_pixels, check_positive, one_of
from common_flax.errors import one_line
from common_flax.files import user_path, whole_file
from layers_flax import to_torch, variables_by_shape
from weights_flax.export.metadata import NAMES, card_beside, card_path, describe_export, is_card
from weights_flax.export.onnx_file import OPSET, OPSETS, to_onnx
from weights_flax.export.stablehlo import to_stablehlo
from weights_flax.formats.torch import write_torch

FORMATS = ("stablehlo", "onnx", "torch")
LARGEST = 2**31 - 2**26  # bytes of weights: StableHLO and ONNX files must stay under 2 GiB


def export(
    model: nn.Module,
    variables: Mapping[str, Any],
    path: str | Path,
    *,
    format: str = "stablehlo",
    image_shape: Sequence[int] = (224, 224, 3),
    metadata: Mapping[str, str] | None = None,
    opset: int | None = None,
    card: Mapping[str, Any] | None = None,
    from_pixels: bool = False,
) -> None:
    """Writes a network in evaluation, with its weights, to a file that does not need this project.

    The exported network maps images, normalised as in training, to logits (batch, num_classes); both are float32, and
    a batch may have any size. With `from_pixels` it maps pixels from 0 to 255, uint8, to probabilities, float32.

    - "stablehlo" needs only JAX, on CPU, GPU or TPU; images are (batch, height, width, channels). An `ExportCard` in
      JSON stands beside it, the file's name and ".json"::

          logits = jax.jit(jax.export.deserialize(Path(path).read_bytes()).call)(images)

      JAX guarantees that its later versions read such files for half a year at least.
    - "onnx" runs in every runtime that supports opset 17, or the one that is asked for; images are (batch, channels,
      height, width). The `ExportCard` is in the file's metadata::

          (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {"images": images})

    - "torch" holds only the weights, under PyTorch's names, for torchvision's network of the same name::

          network.load_state_dict(torch.load(path, weights_only=True))

    Args:
        model: a network of either family, with any options. "stablehlo" computes in its `dtype`, but float64 becomes
            float32; "onnx" computes in float32; "torch" keeps the types of the variables.
        variables: its {"params", "batch_stats"}.
        path: the file, which appears only when it is complete.
        format: "stablehlo", "onnx" (needs the package onnx) or "torch".
        image_shape: (height, width, channels) of the images that the network will see.
        metadata: more strings for the metadata, under names that `ExportCard` does not have; for example the licence.
        opset: the version of ONNX' operations that an ONNX file uses, 9 to 22; None is 17.
        card: what is known of the network's images and classes: the card of a file of weights, see `load_model`.
        from_pixels: put (pixel / 255 - mean) / std, by the card's values, and softmax into the program; or
            sigmoid, if the card says that an image may have several classes ("multi_label").

    Raises:
        ValueError: an argument is not allowed, the variables do not fit the model, onnx is missing, or the file cannot
            be written. Nothing is written then.
    """
    one_of("format", format, FORMATS)
    if metadata and format == "torch":
        raise ValueError("metadata is for formats 'onnx' and 'stablehlo'; a file of format 'torch' has no place for it")
    if from_pixels and format == "torch":
        raise ValueError("from_pixels is for formats 'onnx' and 'stablehlo'; format 'torch' has weights alone")
    for name in metadata or {}:
        if name in NAMES:
            raise ValueError(f"metadata has the entry {name!r}, which the card of an export tells; give it by `card`")
    if opset is not None and format != "onnx":
        raise ValueError(f"opset is for format 'onnx'; given {opset!r} for {format!r}")
    if opset is not None and opset not in OPSETS:
        raise ValueError(f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}; given {opset!r}")
    path = user_path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"cannot write {str(path)!r}: " + ("it is a folder" if path.is_dir() else "no such folder"))
    if format == "stablehlo" and os.path.lexists(card_path(path)) and not is_card(card_path(path)):
        raise ValueError(f"{str(card_path(path))!r} is where the export's card goes, and is none; name another file")
    _check_fit(model, variables, image_shape)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if format != "torch" and size > LARGEST:
        raise ValueError(f"weights of {size:,} bytes are too many for format {format!r}: at most {LARGEST:,}")
    try:
        if format == "torch":
            write_torch(path, to_torch(model, variables))
            return
        layout = "NCHW" if format == "onnx" else "NHWC"
        about = describe_export(model, image_shape, layout, card or {}, from_pixels)
        if format == "onnx":
            with whole_file(path) as file:
                file.write_bytes(to_onnx(model, variables, about, metadata, opset or OPSET))
            return
        data = to_stablehlo(model, variables, about)
        # Both are on the disk before one has its name. Of a pipe or a device there is no place beside.
        beside = whole_file(card_path(path)) if path.is_file() or not path.exists() else nullcontext()
        with beside as json_file, whole_file(path) as file:
            file.write_bytes(data)
            if json_file is not None:
                json_file.write_text(card_beside(about, data, metadata or {}), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {one_line(error)}") from None


def _check_fit(model: nn.Module, variables: Mapping[str, Any], image_shape: Sequence[int]) -> None:
    """Raises ValueError unless the network takes images of this shape, with variables of these shapes."""
    if not isinstance(image_shape, Sequence) or len(image_shape) != 3:
        raise ValueError(f"image_shape must be (height, width, channels); given {image_shape!r}")
    for what, size in zip(("height", "width", "channels"), image_shape, strict=True):
        check_positive(f"{what} in image_shape", size)
    check_pixels("image_shape", *image_shape[:2])
    wanted, given = (
        {name: np.shape(leaf) for name, leaf in flatten_dict(dict(tree), sep="/").items()}
        for tree in (variables_by_shape(model, image_shape), variables)
    )
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not the model's" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {given[name]}, not {shape}"
        for name, shape in wanted.items()
        if given.get(name, shape) != shape
    ]
    if problems:
        more = f"; … ({len(problems)} such)" if len(problems) > 3 else ""
        network = f"{type(model).__name__} for images {tuple(image_shape)}"
        raise ValueError(f"the variables do not fit the {network}: {'; '.join(problems[:3])}{more}")
