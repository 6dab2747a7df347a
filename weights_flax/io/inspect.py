"""Contents of a file of weights, and the architectures that it fits."""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from layers_flax import Network, variables_by_shape
from layers_flax.model.torch_names import torch_name, torch_shape
from weights_flax.formats.tensors import Tensor
from weights_flax.io.archs import ARCHS
from weights_flax.names.recognise import Naming

Shapes = dict[str, tuple[int, ...]]


def fitting(naming: Naming, tensors: Mapping[str, Tensor]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the architectures whose names and shapes are those of `tensors`, each with its options.

    Args:
        naming: the origin of the file's names.
        tensors: under torchvision's names, as `recognise` gives them.
    """
    shapes = {name: value.shape for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    fit = []
    for arch, constructor in ARCHS.items():
        default = constructor()
        options = default.torch_options(shapes)
        if options is None:
            continue
        options = {name: value for name, value in options.items() if getattr(default, name) != value}
        if head := shapes.get(f"{default.torch_head}.bias"):
            options = {"num_classes": head[0], **options}
        options |= naming.options
        try:
            model = constructor(**options)
            if torch_shapes(model, _image_channels(model, shapes)) == shapes:
                fit.append((arch, options))
        except (ValueError, TypeError, ZeroDivisionError):
            continue  # the architecture cannot have these options
    return fit


def torch_shapes(model: Network, channels: int = 3) -> Shapes:
    """Names and shapes of a network's tensors in PyTorch; nothing is computed."""
    return {
        torch_name(path, model.torch_module): torch_shape(leaf.shape)
        for path, leaf in flatten_dict(variables_by_shape(model, (32, 32, channels))).items()
    }


def classes_of(tensors: Mapping[str, Tensor]) -> int:
    """The number of classes of the classifier among `tensors`; 1000, as for ImageNet, where there is none."""
    heads = dict.fromkeys(f"{constructor().torch_head}.bias" for constructor in ARCHS.values())
    shape = next((tensors[name].shape for name in heads if name in tensors), ())
    return shape[0] if shape and shape[0] else 1000


def _image_channels(model: Network, shapes: Shapes) -> int:
    kernel = shapes.get(torch_name(("params", model.first_conv, "kernel"), model.torch_module), ())
    return kernel[1] if len(kernel) == 4 else 3
