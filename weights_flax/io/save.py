"""Writing of weights to files, together with a card that says what network they belong to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from common_flax.checks import one_of
from common_flax.files import whole_file
from layers_flax import from_torch, to_torch
from weights_flax.formats.msgpack import write_msgpack
from weights_flax.formats.npz import write_npz
from weights_flax.formats.safetensors import write_safetensors
from weights_flax.formats.torch import write_torch
from weights_flax.io.archs import describe, silent_options

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
    preprocessing: Mapping[str, Any] | None = None,
    training_images: Mapping[str, Any] | None = None,
    licence: str | None = None,
    source: str | None = None,
    run: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    multi_label: bool | None = None,
) -> Path:
    """Writes the variables of `model` to a file that `load_weights` and `load_model` read.

    The ending of the file chooses the format. A .safetensors file has PyTorch's names and layouts, an .npz file has
    Flax's paths, a .msgpack file is a tree for `flax.serialization`; all three have a card that describes the network,
    with check sums that are compared at every reading. Files of .pt, .pth and .th have no card: they are a state dict
    for `torch.load(…, weights_only=True)`, a zip file, which has check sums by itself. The card has "arch" (left out if
    no constructor makes such a network), "options", "num_classes" and the optional arguments. The same variables give
    the same bytes.

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}.
        path: the file, which appears only when it is complete.
        class_names: one for each class.
        mean, std: one number a channel, to normalise images with pixels from 0 to 1.
        image_shape: (height, width, channels) of the images that the network was trained on.
        preprocessing: of test images: "interpolation", bilinear or bicubic; "crop", the share of the shorter side that
            the centre crop keeps; "crop_rule", torchvision, timm or centred; "keep", to leave alone images that have
            the size already; "preparation", digit or none, see `training_flax.inference.transform.View`.
        training_images: what they are like, see `training_flax.inference.likeness.Likeness`.
        licence: of the weights.
        source: the origin of the weights.
        run: of weights of a run, their "step", the run's "mark", and "which": "best", "averaged" or "last".
        data: the data set of the training, by options of `train.py`, see `weights_flax.formats.run.DATA`.
        multi_label: True if images may have several classes: each has a probability of its own, sigmoid of its logit.

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
    options = options if arch else silent_options(model)
    num_classes: int = getattr(model, "num_classes")  # noqa: B009
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"class_names must be {num_classes}, one for each class; given {len(class_names)}")
    if (mean is None) != (std is None):
        raise ValueError(f"give mean and std, or neither; given mean={mean!r}, std={std!r}")
    card: dict[str, Any] = {"arch": arch, "options": options, "num_classes": num_classes}
    card |= {"class_names": None if class_names is None else list(class_names)}
    card |= {"normalisation": None if mean is None or std is None else {"mean": list(mean), "std": list(std)}}
    card |= {"image_shape": None if image_shape is None else list(image_shape), "licence": licence, "source": source}
    card |= {"preprocessing": None if preprocessing is None else dict(preprocessing)}
    card |= {"training_images": None if training_images is None else dict(training_images)}
    card |= {"run": None if run is None else dict(run), "data": None if data is None else dict(data)}
    card |= {"multi_label": multi_label or None}
    card = {name: value for name, value in card.items() if value is not None}
    tensors = to_torch(model, variables)
    variables = from_torch(model, tensors)  # raises an error for missing variables
    if path.suffix in (".pt", ".pth", ".th"):
        write_torch(path, tensors)
        return path
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    arrays = {"/".join(str(key.key) for key in place): np.asarray(leaf) for place, leaf in leaves}
    with whole_file(path) as file:
        if path.suffix == ".safetensors":
            write_safetensors(file, tensors, card)
        elif path.suffix == ".msgpack":
            write_msgpack(file, variables, arrays, card)
        else:
            write_npz(file, arrays, card)
    return path
