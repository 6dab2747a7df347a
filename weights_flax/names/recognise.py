"""Recognition of the source of a file's names, and translation into torchvision's names and layouts.

Networks that torchvision lacks, such as pre-activation networks, follow the same rules: `layers_flax.to_torch`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any, NamedTuple

from layers_flax import Network
from layers_flax.model.architecture import ARCHS
from layers_flax.model.torch_names import LEAVES, torch_axes, torch_name
from weights_flax.formats.tensors import Tensor
from weights_flax.names import keras
from weights_flax.names.flax_example import from_example

Tensors = Mapping[str, Tensor]
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")  # DistributedDataParallel, torch.compile, trainers


class Naming(NamedTuple):
    """Names of one origin.

    Attributes:
        title: the origin.
        fits: tells if a file's names are of this origin.
        convert: returns a file's tensors under torchvision's names, in its layouts.
        options: constructor options that these weights need; with others a network would compute something else.
    """

    title: str
    fits: Callable[[Iterable[str]], bool]
    convert: Callable[[Tensors], dict[str, Tensor]]
    options: Mapping[str, Any] = {}


def recognise(tensors: Tensors) -> tuple[Naming, dict[str, Tensor]]:
    """Recognises the names of `tensors`; returns their origin, and the tensors under torchvision's names.

    Raises:
        ValueError: the names are of no origin listed here; the message shows the first ones.
    """
    tensors = _without_prefix(tensors)
    for naming in NAMINGS:
        if naming.fits(tensors):
            return naming, naming.convert(tensors)
    shown = ", ".join(map(repr, list(tensors)[:4]))
    raise ValueError(f"its names are those of no known source; they begin with {shown}")


def _without_prefix(tensors: Tensors) -> Tensors:
    """Removes the prefixes that wrappers put before all names."""
    while prefix := next((p for p in PREFIXES if tensors and all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _has(*parts: str) -> Callable[[Iterable[str]], bool]:
    """Makes a function that tells if each of the patterns matches the start of some name."""
    return lambda names: all(any(re.match(part, name) for name in names) for part in parts)


def _renamed(*rules: tuple[str, str]) -> Callable[[Tensors], dict[str, Tensor]]:
    """Makes a function that renames tensors by regular expressions, one after the other."""
    return lambda tensors: {
        reduce(lambda name, rule: re.sub(rule[0], rule[1], name), rules, old): value for old, value in tensors.items()
    }


def _timm_vgg(tensors: Tensors) -> dict[str, Tensor]:
    """Renames timm's VGG, whose dense layers are convolutions over the whole 7×7 map."""
    rules = (r"^pre_logits\.fc1", "classifier.0"), (r"^pre_logits\.fc2", "classifier.3"), (r"^head\.fc", "classifier.6")
    renamed = _renamed(*rules)(tensors)
    for name in ("classifier.0.weight", "classifier.3.weight"):
        if name in renamed and len(renamed[name].shape) == 4:
            out, *inner = renamed[name].shape
            renamed[name] = renamed[name].reshape(out, inner[0] * inner[1] * inner[2])
    return renamed


def _own_flax(tensors: Tensors) -> dict[str, Tensor]:
    """Renames variables of this project, given by their paths, "params/conv1/kernel"."""
    module_name = next(
        (kind.torch_module for kind in _network_classes() if f"params/{kind.first_conv}/kernel" in tensors),
        Network.torch_module,
    )
    renamed = {}
    for name, value in tensors.items():
        path = tuple(name.split("/"))
        if path[0] not in ("params", "batch_stats") or path[-1] not in LEAVES or len(path) < 3:
            raise ValueError(f"{name[:100]!r} is no variable of a network")
        renamed[torch_name(path, module_name)] = value.transpose(*torch_axes(len(value.shape)))
    return renamed


def _network_classes() -> set[type[Network]]:
    """Returns the classes of the networks in the table of architectures."""
    return {type(constructor()) for constructor in ARCHS.values()}


def _has_first_conv(names: Iterable[str]) -> bool:
    """Tells if the first convolution of a family in the table of architectures is among PyTorch's names."""
    first = {torch_name(("params", kind.first_conv, "kernel"), kind.torch_module) for kind in _network_classes()}
    return not first.isdisjoint(names)


# The third BatchNorm tells ResNets of 2015 from Keras' ResNet v2, whose blocks end in a convolution.
KERAS_RESNET = keras.has_layers("conv1_conv", "conv1_bn", "conv2_block1_3_bn")
NAMINGS = (
    Naming("Flax's ImageNet example", _has(r"params/conv_init/kernel$"), from_example, {"padding": "same"}),
    Naming("this project, as a tree of Flax", _has("params/"), _own_flax),
    Naming("Keras applications' ResNet", KERAS_RESNET, keras.from_resnet, {"bottleneck_stride": "v1"}),
    Naming(
        "Keras applications' DenseNet", keras.has_layers("conv2_block1_0_bn", "pool2_bn", "bn"), keras.from_densenet
    ),
    Naming("Keras applications' VGG", keras.has_layers("block1_conv1", "block5_conv1"), keras.from_vgg),
    Naming("timm's VGG", _has(r"pre_logits\.fc1\.", r"features\.0\."), _timm_vgg),
    Naming(
        "akamaster's CIFAR ResNets",
        _has(r"linear\.weight$", r"layer1\.0\.conv1\."),
        _renamed((r"^linear\.", "fc."), (r"\.shortcut\.", ".downsample.")),
    ),
    Naming(
        "torchvision's DenseNet, old spelling",
        _has(r"features\.denseblock1\.denselayer1\.norm\.1\."),
        _renamed((r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1")),
    ),
    Naming("torchvision's or timm's", _has_first_conv, dict),
)
