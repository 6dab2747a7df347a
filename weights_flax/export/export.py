"""Export of a network to one file that runs, or can be read, without this project."""

from collections.abc import Mapping, Sequence
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
) -> None:
    """Writes a network in evaluation, with its weights, to a file that does not need this project.

    The exported network maps images, normalised as in training, to logits (batch, num_classes); both are float32, and
    a batch may have any size.

    - "stablehlo" needs only JAX, on CPU, GPU or TPU; images are (batch, height, width, channels)::

          logits = jax.jit(jax.export.deserialize(Path(path).read_bytes()).call)(images)

      JAX guarantees that its later versions read such files for half a year at least.
    - "onnx" runs in every runtime that supports opset 17, or the one that is asked for; images are (batch, channels,
      height, width)::

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
        metadata: strings for the metadata of an ONNX file, beside `image_shape`, `layout` and `architecture`; for
            example the normalisation of images.
        opset: the version of ONNX' operations that an ONNX file uses, 9 to 22; None is 17.

    Raises:
        ValueError: an argument is not allowed, the variables do not fit the model, onnx is missing, or the file cannot
            be written. Nothing is written then.
    """
    one_of("format", format, FORMATS)
    if metadata and format != "onnx":
        raise ValueError(f"metadata is for format 'onnx'; a file of format {format!r} has no place for it")
    if opset is not None and format != "onnx":
        raise ValueError(f"opset is for format 'onnx'; given {opset!r} for {format!r}")
    if opset is not None and opset not in OPSETS:
        raise ValueError(f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}; given {opset!r}")
    path = user_path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"cannot write {str(path)!r}: " + ("it is a folder" if path.is_dir() else "no such folder"))
    _check_fit(model, variables, image_shape)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if format != "torch" and size > LARGEST:
        raise ValueError(f"weights of {size:,} bytes are too many for format {format!r}: at most {LARGEST:,}")
    try:
        if format == "torch":
            write_torch(path, to_torch(model, variables))
            return
        if format == "onnx":
            data = to_onnx(model, variables, image_shape, metadata, opset or OPSET)
        else:
            data = to_stablehlo(model, variables, image_shape)
        with whole_file(path) as file:
            file.write_bytes(data)
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
