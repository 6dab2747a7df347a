"""Translation of the names in Flax's ImageNet example (its examples/imagenet/models.py) into torchvision's.

The example counts its blocks through all stages, and its modules have Flax's automatic names. It pads strided 3×3
convolutions and the max pool by "SAME", which pads even sizes at the lower and right edges only: `padding="same"`
here.
"""

import re
from collections.abc import Iterable, Mapping

from layers_flax.model.torch_names import LEAVES, torch_axes
from weights_flax.formats.tensors import Tensor

BLOCK = re.compile(r"(?:params|batch_stats)/(?:Bottleneck)?ResNetBlock_(\d+)/")


def from_example(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the example's variables, given by paths, under torchvision's names and in its layouts."""
    places = _places(tensors)
    renamed = {}
    for name, value in tensors.items():
        *path, leaf = name.split("/")
        module = _module(path[1:], places)
        if module is None or leaf not in LEAVES:
            renamed[name] = value
        else:
            renamed[f"{module}.{LEAVES[leaf]}"] = value.transpose(*torch_axes(len(value.shape)))
    return renamed


def _places(names: Iterable[str]) -> dict[int, str]:
    """Returns torchvision's name of each block; a block with a projection begins a stage."""
    blocks = sorted({int(match[1]) for name in names if (match := BLOCK.match(name))})
    projected = {int(match[1]) for name in names if (match := BLOCK.match(name)) and "/conv_proj/" in name}
    places, stage, first = {}, 0, 0
    for block in blocks:
        if block in projected or stage == 0:
            stage, first = stage + 1, block
        places[block] = f"layer{stage}.{block - first}"
    return places


def _module(path: list[str], places: Mapping[int, str]) -> str | None:
    if len(path) == 1:
        return {"conv_init": "conv1", "bn_init": "bn1", "Dense_0": "fc"}.get(path[0])
    if len(path) != 2 or not (match := re.fullmatch(r"(?:Bottleneck)?ResNetBlock_(\d+)", path[0])):
        return None
    inner = {"conv_proj": "downsample.0", "norm_proj": "downsample.1"}
    inner |= {f"Conv_{i}": f"conv{i + 1}" for i in range(3)} | {f"BatchNorm_{i}": f"bn{i + 1}" for i in range(3)}
    return f"{places[int(match[1])]}.{inner[path[1]]}" if path[1] in inner else None
