"""Names of DenseNets under PyTorch: torchvision's."""

import re
from collections.abc import Mapping
from typing import Any

from layers_flax import block_counts


def module_name(path: tuple[str, ...]) -> str:
    """PyTorch's name of the module at `path`."""
    return ".".join(path if path[0] == "classifier" else ("features", *path))


def present_name(name: str) -> str:
    """A tensor's name as it is spelt now: old files have `denselayer1.norm.1` for `denselayer1.norm1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", name)


def densenet_options(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Options of a DenseNet's constructor that tensors show; None where blocks have other sizes."""
    if tuple(model.block_sizes) != block_counts(shapes, r"features\.denseblock(\d+)\.denselayer(\d+)\.", first=1):
        return None
    options: dict[str, Any] = {}
    if len(kernel := shapes.get("features.conv0.weight", ())) == 4:
        options["stem_type"] = "imagenet" if kernel[-1] == 7 else "cifar"
    if growth := shapes.get("features.denseblock1.denselayer1.conv2.weight"):
        options["growth_rate"] = growth[0]
    return options
