"""Names of ResNets, plain networks and VGGs under PyTorch: torchvision's.

Modules in a list, `layer1_0` or `features_3` here, are `layer1.0` and `features.3` there. The pre-activation networks,
which torchvision lacks, follow the same rule.
"""

import re
from collections.abc import Mapping
from typing import Any

from layers_flax import block_counts

Shapes = Mapping[str, tuple[int, ...]]


def module_name(path: tuple[str, ...]) -> str:
    """PyTorch's name of the module at `path`."""
    return ".".join(re.sub(r"_(\d+)$", r".\1", module) for module in path)


def resnet_options(model: Any, shapes: Shapes) -> dict[str, Any] | None:
    """Options of a ResNet's or plain network's constructor that tensors show; None where stages have other sizes."""
    if tuple(model.stage_sizes) != block_counts(shapes, r"layer(\d+)\.(\d+)\.", first=0):
        return None
    options: dict[str, Any] = {}
    kernel = shapes.get("conv1.weight", ())
    if len(kernel) == 4:
        options["stem_type"] = "imagenet" if kernel[-1] == 7 else "cifar"
        if model.stem_width is None:
            options["width"] = kernel[0]
        if model.shortcut is not None:
            projected = sum(name.endswith(".downsample.0.weight") for name in shapes)
            options["shortcut"] = "A" if not projected else "C" if projected == sum(model.stage_sizes) else "B"
    return options


def vgg_options(model: Any, shapes: Shapes) -> dict[str, Any] | None:
    """Options of a VGG's constructor that tensors show; None where it has other convolutions or norms."""
    norms = any(name.startswith("features.") and name.endswith("running_mean") for name in shapes)
    convolutions = sum(name.startswith("features.") and len(shape) == 4 for name, shape in shapes.items())
    if (sum(model.stage_sizes), model.batch_norm) != (convolutions, norms) or "classifier.6.bias" not in shapes:
        return None
    kernel = shapes.get("features.0.weight", ())
    return {"width": kernel[0]} if len(kernel) == 4 else {}
