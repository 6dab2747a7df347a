"""Translation of the names in Hugging Face transformers' ResNets, and of those of a network's children by number.

In transformers a stage is `encoder.stages.0`, its blocks are `layers`, the convolutions of a block are `layer` with the
number of each, and the classifier stands behind a flattening, `classifier.1`. Layouts are PyTorch's.
"""

import re
from collections.abc import Mapping
from functools import reduce
from typing import Any

from weights_flax.formats.tensors import Tensor

CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a ResNet of transformers under torchvision's names."""
    return {_torchvision(name): value for name, value in tensors.items()}


def _torchvision(name: str) -> str:
    rules: tuple[tuple[str, Any], ...] = (
        (r"^resnet\.", ""),
        (r"^embedder\.embedder\.convolution\.", "conv1."),
        (r"^embedder\.embedder\.normalization\.", "bn1."),
        (r"^encoder\.stages\.(\d+)\.layers\.", lambda match: f"layer{int(match[1]) + 1}."),
        (r"\.shortcut\.convolution\.", ".downsample.0."),
        (r"\.shortcut\.normalization\.", ".downsample.1."),
        (r"\.layer\.(\d+)\.convolution\.", lambda match: f".conv{int(match[1]) + 1}."),
        (r"\.layer\.(\d+)\.normalization\.", lambda match: f".bn{int(match[1]) + 1}."),
        (r"^classifier\.1\.", "fc."),
    )
    return reduce(lambda text, rule: re.sub(rule[0], rule[1], text), rules, name)


def from_children(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a ResNet's tensors, named by the places of its children in a sequence, under torchvision's names.

    `nn.Sequential(*resnet.children())` gives them: convolution, norm, ReLU, max pool, four stages, mean, classifier.
    """
    renamed = {}
    for name, value in tensors.items():
        child, _, rest = name.partition(".")
        renamed[f"{CHILDREN[child]}.{rest}" if child in CHILDREN else name] = value
    return renamed
