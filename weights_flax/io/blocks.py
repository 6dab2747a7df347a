"""Networks of known blocks at depths that no architecture has, from the names and shapes of their tensors."""

import itertools
from collections.abc import Mapping
from typing import Any

from densenet_flax import DenseNet
from layers_flax import Network, block_counts
from resnet_flax import VGG, BasicBlock, BottleneckBlock, PreActBasicBlock, PreActBottleneckBlock, ResNet

Shapes = Mapping[str, tuple[int, ...]]
MOST_BLOCKS = 2000  # of a network that is built from a file alone
MOST_STAGES = 6  # more would leave nothing of an image of 224 pixels behind the stem of a DenseNet
BLOCKS = {
    (False, False): BasicBlock,
    (True, False): BottleneckBlock,
    (False, True): PreActBasicBlock,
    (True, True): PreActBottleneckBlock,
}


def network_of(shapes: Shapes, num_classes: int, **options: Any) -> Network | None:
    """Builds the network that tensors of these names and shapes would belong to, as far as its first blocks tell.

    Args:
        shapes: PyTorch's names to shapes.
        num_classes: of the classifier.
        options: of the network that no shape tells, such as `padding`.

    Returns:
        The network, whose own shapes are not compared yet; None where the tensors are of no such network.
    """
    for build in (_resnet, _densenet, _vgg):
        try:
            made = build(shapes)
            if made is not None:
                kind, values = made
                sizes = values["block_sizes" if kind is DenseNet else "stage_sizes"]
                if len(sizes) > MOST_STAGES or sum(sizes) > MOST_BLOCKS:
                    continue
                return kind(num_classes=num_classes, **{**values, **options})
        except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError):
            continue  # a tensor is missing, or has a shape that no such network has
    return None


def _resnet(shapes: Shapes) -> tuple[Any, dict[str, Any]] | None:
    sizes = block_counts(shapes, r"layer(\d+)\.(\d+)\.", first=0)
    if not sizes or not all(sizes):
        return None
    stem, kernel = shapes["conv1.weight"], shapes["layer1.0.conv1.weight"]
    if stem[-1] not in (3, 7):
        return None
    deep, early = "layer1.0.conv3.weight" in shapes, "norm.weight" in shapes
    width = shapes["layer1.0.conv3.weight"][0] // 4 if deep else kernel[0]
    values: dict[str, Any] = {"stage_sizes": sizes, "block": BLOCKS[deep, early], "width": width}
    values["stem_type"] = "imagenet" if stem[-1] == 7 else "cifar"
    if stem[0] != width:
        values["stem_width"] = stem[0]
    if deep:
        inner, of_group, *_ = shapes["layer1.0.conv2.weight"]
        groups = inner // of_group
        values |= {"groups": groups, "width_per_group": inner * 64 // (width * groups)}
    projected = sum(name.endswith(".downsample.0.weight") for name in shapes)
    values["shortcut"] = "A" if not projected else "C" if projected == sum(sizes) > len(sizes) else "B"
    return ResNet, values


def _densenet(shapes: Shapes) -> tuple[Any, dict[str, Any]] | None:
    sizes = block_counts(shapes, r"features\.denseblock(\d+)\.denselayer(\d+)\.", first=1)
    if not sizes or not all(sizes):
        return None
    stem, first = shapes["features.conv0.weight"], "features.denseblock1.denselayer1"
    if stem[-1] != (7 if "features.norm0.weight" in shapes else 3):
        return None
    bottleneck = shapes.get(f"{first}.conv2.weight")
    growth = (bottleneck or shapes[f"{first}.conv1.weight"])[0]
    values: dict[str, Any] = {"block_sizes": sizes, "growth_rate": growth, "stem_width": stem[0]}
    values["stem_type"] = "imagenet" if stem[-1] == 7 else "cifar"
    values["bottleneck_width"] = shapes[f"{first}.conv1.weight"][0] // growth if bottleneck else None
    if transition := shapes.get("features.transition1.conv.weight"):
        values["compression"] = transition[0] / transition[1]
    return DenseNet, values


def _vgg(shapes: Shapes) -> tuple[Any, dict[str, Any]] | None:
    places = sorted(
        int(name.split(".")[1]) for name, shape in shapes.items() if name[:9] == "features." and len(shape) == 4
    )
    if not places or "classifier.6.weight" not in shapes:
        return None
    norms = any(name.startswith("features.") and name.endswith("running_mean") for name in shapes)
    sizes, step = [1], 3 if norms else 2  # a convolution, its norm and its ReLU; a pool ends a stage
    for before, place in itertools.pairwise(places):
        if place - before == step:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return VGG, {"stage_sizes": tuple(sizes), "batch_norm": norms, "width": shapes["features.0.weight"][0]}
