"""Translation of the names in Keras applications' ResNet, DenseNet and VGG into torchvision's.

Keras' kernels are HWIO and (in, out), its BatchNorm divides by sqrt(variance + 1.001e-5), and the convolutions of its
ResNets have biases. Each bias is subtracted from the running mean of the BatchNorm behind it, and the difference of
epsilons is added to the running variance, so that the logits in evaluation stay the same.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from layers_flax.model.torch_names import torch_axes
from weights_flax.formats.hdf5 import EPSILON
from weights_flax.formats.tensors import Tensor

OURS = 1e-5
LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
LEAVES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
HEADS = ("predictions", "fc1000", "probs")

RESNET = (
    (r"^conv1_(conv|bn)$", r"\g<1>1"),
    (r"^conv(\d)_block(\d+)_0_conv$", r"layer\1.\2.downsample.0"),
    (r"^conv(\d)_block(\d+)_0_bn$", r"layer\1.\2.downsample.1"),
    (r"^conv(\d)_block(\d+)_([123])_(conv|bn)$", r"layer\1.\2.\4\3"),
)
DENSENET = (
    (r"^conv1[_/]conv$", "features.conv0"),
    (r"^conv1[_/]bn$", "features.norm0"),
    (r"^conv(\d)_block(\d+)_0_bn$", r"features.denseblock\1.denselayer\2.norm1"),
    (r"^conv(\d)_block(\d+)_1_bn$", r"features.denseblock\1.denselayer\2.norm2"),
    (r"^conv(\d)_block(\d+)_([12])_conv$", r"features.denseblock\1.denselayer\2.conv\3"),
    (r"^pool(\d)_bn$", r"features.transition\1.norm"),
    (r"^pool(\d)_conv$", r"features.transition\1.conv"),
    (r"^bn$", "features.norm5"),
)
VGG_LAYERS = {2: (1, 1, 2, 2, 2), 3: (2, 2, 3, 3, 3), 4: (2, 2, 4, 4, 4)}  # by convolutions in the fifth stage

Tensors = Mapping[str, Tensor]


def has_layers(*layers: str) -> Callable[[Iterable[str]], bool]:
    """Makes a function that tells if names include those of all these layers."""
    return lambda names: set(layers) <= _layers(names)


def from_resnet(tensors: Tensors) -> dict[str, Tensor]:
    """Renames a ResNet: Keras' stage conv2 is torchvision's layer1, and its blocks count from 1."""
    renamed = _translated(tensors, RESNET, "fc", stage_from=2, block_from=1)
    for name in [name for name in renamed if name.endswith(".bias") and f"{name[:-5]}.running_mean" not in renamed]:
        if not name.startswith("fc."):
            bias = renamed.pop(name)
            norm = _norm_behind(name)
            mean = renamed.get(f"{norm}.running_mean")
            if mean is not None and mean.shape == bias.shape:
                renamed[f"{norm}.running_mean"] = _minus(mean, bias)
    return renamed


def _minus(mean: Tensor, bias: Tensor) -> Tensor:
    return mean.map(lambda values: values - np.asarray(bias))


def from_densenet(tensors: Tensors) -> dict[str, Tensor]:
    """Renames a DenseNet: Keras' conv2 is torchvision's denseblock1, its pool2 is transition1."""
    return _translated(tensors, DENSENET, "classifier", stage_from=2, block_from=0)


def from_vgg(tensors: Tensors) -> dict[str, Tensor]:
    """Renames a VGG: torchvision numbers convolutions, ReLUs and pools as one sequence."""
    sizes = VGG_LAYERS.get(sum(layer.startswith("block5_conv") for layer in _layers(tensors)), ())
    places, place = {}, 0
    for stage, size in enumerate(sizes, 1):
        for number in range(1, size + 1):
            places[f"block{stage}_conv{number}"] = f"features.{place}"
            place += 2
        place += 1
    rules = tuple((f"^{layer}$", there) for layer, there in places.items())
    renamed = _translated(tensors, (*rules, ("^fc1$", "classifier.0"), ("^fc2$", "classifier.3")), "classifier.6")
    first = renamed.get("classifier.0.weight")
    if first is not None and len(first.shape) == 2 and first.shape[1] % 49 == 0:
        # Keras flattens pixels first, PyTorch channels first.
        out, inner = first.shape
        by_pixel = first.reshape(out, 7, 7, inner // 49)
        renamed["classifier.0.weight"] = by_pixel.transpose(0, 3, 1, 2).reshape(out, inner)
    return renamed


def with_lone_head(names: Mapping[str, str], every: Tensors) -> dict[str, str]:
    """Returns a network's names with those of its classifier, where that is the only dense layer of any name.

    Args:
        names: behind the network's prefix, each with the whole name.
        every: all of the file's tensors, by whole names; a layer behind a network in another stands outside of it.
    """
    layers = _layers(names)
    dense = [
        name
        for name, tensor in every.items()
        if len(tensor.shape) == 2 and _layer_and_leaf(name)[1] == "kernel" and not re.search(r"(^|/)fc[12]/", name)
    ]
    if layers & set(HEADS) or len(dense) != 1 or every[dense[0]].shape[0] != _features(names, every):
        return dict(names)
    before = dense[0][: dense[0].rindex("kernel")]
    moved = {f"{before}{leaf}" for leaf in ("kernel", "kernel:0", "bias", "bias:0")} & every.keys()
    rest = {short: name for short, name in names.items() if name not in moved}
    return rest | {f"{HEADS[0]}/{name.removeprefix(before)}": name for name in sorted(moved)}


def _features(names: Mapping[str, str], every: Tensors) -> int | None:
    """Returns the channels that a network's classifier sees: of its last norm, or of a VGG's second dense layer."""
    last: dict[str, Tensor] = {}
    for short, name in names.items():
        layer, leaf = _layer_and_leaf(short)
        if (layer, leaf) in (("bn", "gamma"), ("fc2", "bias")) or (
            leaf == "gamma" and re.fullmatch(r"conv5_block\d+_3_bn", layer)
        ):
            last[layer] = every[name]
    found = last.get("fc2", last.get("bn", next(iter(last.values()), None)))
    return found.shape[0] if found is not None and found.shape else None


def _layers(names: Iterable[str]) -> set[str]:
    return {_layer_and_leaf(name)[0] for name in names}


def _layer_and_leaf(name: str) -> tuple[str, str]:
    """Splits "conv1_conv/conv1_conv/kernel:0", or "conv1/bn/gamma:0", into layer and leaf."""
    *parts, leaf = name.removesuffix(":0").split("/")
    half = len(parts) // 2
    layer = parts[:half] if half and parts[:half] == parts[half:] else parts[:1] if len(parts) == 2 else parts
    return "/".join(layer), leaf


def _translated(
    tensors: Tensors, rules: Iterable[tuple[str, str]], head: str, *, stage_from: int = 0, block_from: int = 0
) -> dict[str, Tensor]:
    """Renames tensors by rules; a tensor without a rule keeps its name, and is reported as surplus later."""
    rules = (*rules, (f"^({'|'.join(HEADS)})$", head))
    renamed = {}
    for name, value in tensors.items():
        layer, leaf = _layer_and_leaf(name)
        rule = next(((pattern, there) for pattern, there in rules if re.match(pattern, layer)), None)
        if rule is None or leaf not in LEAVES:
            renamed[name] = value
            continue
        module = _counted(re.sub(*rule, layer), stage_from, block_from)
        renamed[f"{module}.{LEAVES[leaf]}"] = _as_torch(leaf, value)
    return renamed


def _counted(module: str, stage_from: int, block_from: int) -> str:
    """Renumbers stages and blocks as torchvision counts them."""

    def minus(by: int) -> Callable[[re.Match], str]:
        return lambda match: f"{match[1]}{int(match[2]) - by}"

    module = re.sub(r"(\blayer|denseblock|transition)(\d+)", minus(stage_from - 1), module) if stage_from else module
    return re.sub(r"(\blayer\d+\.)(\d+)", minus(block_from), module)


def _as_torch(leaf: str, value: Tensor) -> Tensor:
    if leaf == "moving_variance":
        return value.map(lambda variance: variance + (EPSILON - OURS))
    return value.transpose(*torch_axes(len(value.shape)))


def _norm_behind(bias: str) -> str:
    """Returns the BatchNorm behind the convolution of a bias: "layer1.0.bn2" for "layer1.0.conv2.bias"."""
    conv = bias.removesuffix(".bias")
    return re.sub(r"conv(\d)$", r"bn\1", conv).replace("downsample.0", "downsample.1")
