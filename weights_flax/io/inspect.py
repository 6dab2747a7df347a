"""What a file of weights holds, and which architectures it fits."""

import re
from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax.traverse_util import flatten_dict

from densenet_flax import DenseNet
from layers_flax import variables_by_shape
from layers_flax.model.torch_names import torch_axes, torch_name
from resnet_flax import VGG, ResNet
from weights_flax.formats.tensors import Tensor
from weights_flax.io.archs import ARCHS
from weights_flax.names.recognise import Naming

Shapes = dict[str, tuple[int, ...]]


def fitting(naming: Naming, tensors: Mapping[str, Tensor]) -> list[tuple[str, dict[str, Any]]]:
    """The architectures whose names and shapes are those of `tensors`, each with the options it has to be built with.

    Args:
        naming: whose names the file had.
        tensors: under torchvision's names, as `recognise` gives them.
    """
    shapes = {name: value.shape for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    found = []
    for arch in ARCHS:
        default = ARCHS[arch]()
        if not _same_stages(default, shapes):
            continue
        options = {**_options(default, shapes), **naming.options}
        try:
            if torch_shapes(ARCHS[arch](**options), _image_channels(shapes)) == shapes:
                found.append((arch, options))
        except (ValueError, TypeError, ZeroDivisionError):
            continue  # such an architecture cannot have these options
    return found


def torch_shapes(model: nn.Module, channels: int = 3) -> Shapes:
    """Names and shapes of a network's tensors in PyTorch; nothing is computed."""
    return {
        torch_name(path, model.torch_module): tuple(leaf.shape[axis] for axis in torch_axes(len(leaf.shape)))
        for path, leaf in flatten_dict(variables_by_shape(model, (32, 32, channels))).items()
    }


def _same_stages(model: nn.Module, shapes: Shapes) -> bool:
    """Whether a network has as many blocks in each stage as there are names for: quick, where shapes are slow."""
    if isinstance(model, DenseNet):
        return tuple(model.block_sizes) == _counts(shapes, r"features\.denseblock(\d+)\.denselayer(\d+)\.", 1)
    if isinstance(model, VGG):
        norms = any(name.startswith("features.") and name.endswith("running_mean") for name in shapes)
        convolutions = sum(name.startswith("features.") and len(shape) == 4 for name, shape in shapes.items())
        return (sum(model.stage_sizes), model.batch_norm) == (convolutions, norms) and "classifier.6.bias" in shapes
    assert isinstance(model, ResNet)
    return tuple(model.stage_sizes) == _counts(shapes, r"layer(\d+)\.(\d+)\.", 0)


def _counts(shapes: Shapes, pattern: str, first: int) -> tuple[int, ...]:
    """How many blocks each stage has, by the highest numbers in names."""
    highest: dict[int, int] = {}
    for name in shapes:
        if match := re.match(pattern, name):
            stage, block = int(match[1]), int(match[2])
            highest[stage] = max(highest.get(stage, 0), block + 1 - first)
    return tuple(highest.get(stage, 0) for stage in range(1, len(highest) + 1))


def _options(model: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """Options of the constructor in which a file differs from its defaults, as far as shapes tell them."""
    guesses: dict[str, Any] = {}
    if any(name in shapes for name in HEADS):
        guesses["num_classes"] = _classes(shapes)
    first = next((shapes[name] for name in FIRST if name in shapes), ())
    if isinstance(model, ResNet | DenseNet) and len(first) == 4:
        guesses["stem"] = "imagenet" if first[-1] == 7 else "cifar"
    if isinstance(model, ResNet) and len(first) == 4 and model.shortcut is not None:
        projected = sum(re.search(r"\.downsample\.0\.weight$", name) is not None for name in shapes)
        blocks = sum(model.stage_sizes)
        guesses["shortcut"] = "A" if not projected else "C" if projected == blocks else "B"
    if isinstance(model, VGG | ResNet) and len(first) == 4 and getattr(model, "stem_width", None) is None:
        guesses["width"] = first[0]
    if isinstance(model, DenseNet) and len(growth := shapes.get("features.denseblock1.denselayer1.conv2.weight", ())):
        guesses["growth_rate"] = growth[0]
    defaults = {"stem": "stem_kind"}
    return {
        name: value
        for name, value in guesses.items()
        if name == "num_classes" or getattr(model, defaults.get(name, name)) != value
    }


def classes_of(tensors: Mapping[str, Tensor]) -> int:
    """The classes that a classifier among `tensors` has; those of ImageNet where there is none."""
    return _classes({name: value.shape for name, value in tensors.items()}) or 1000


def _classes(shapes: Shapes) -> int:
    shape = next((shapes[name] for name in HEADS if name in shapes), ())
    return shape[0] if shape else 0


def _image_channels(shapes: Shapes) -> int:
    first = next((s for n, s in shapes.items() if n in FIRST and len(s) == 4), (0, 3))
    return first[1]


HEADS = ("fc.bias", "classifier.6.bias", "classifier.bias")
FIRST = ("conv1.weight", "features.conv0.weight", "features.0.weight")
