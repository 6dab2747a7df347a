"""Networks as tables and graphs of their layers (He 2015, figure 3; Huang 2017, figures 1 and 2).

The layers, their sizes and their inputs come from a trace of the model's own code, stage by stage, on shapes only. A
shortcut is an operand of an addition that comes from an earlier layer; a dense connection is one of several layers that
a convolution reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

IMAGES = -1
PASSED_OVER = ("batch norm", "add")


@dataclass(frozen=True)
class Layer:
    """A layer, or an addition of two.

    Attributes:
        name: path among the variables, "layer1_0/conv1"; pools and additions, which have none, get a path too.
        kind: "conv", "fc", "batch norm", "max pool", "average pool", "global average pool" or "add".
        stage: "stem", "stage 1", … or "head".
        kernel: height and width of the window, or None.
        stride: of both axes.
        groups: number of groups of channels that are convolved separately.
        channels: of the output.
        size: height and width of the output; (1, 1) behind the global pool.
        parameters: the number of trainable ones.
        multiply_adds: for one image.
        reads: the layers whose outputs are its input, in the order of their channels, as places in
            `Architecture.layers`; IMAGES stands for the images.
    """

    name: str
    kind: str
    stage: str
    kernel: int | None
    stride: int
    groups: int
    channels: int
    size: tuple[int, int]
    parameters: int
    multiply_adds: int
    reads: tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A network as it runs on one image.

    Attributes:
        name: for titles.
        image_shape: (height, width, channels).
        layers: in the order in which they run.
    """

    name: str
    image_shape: tuple[int, ...]
    layers: tuple[Layer, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages that have layers."""
        return tuple(dict.fromkeys(layer.stage for layer in self.layers))

    @property
    def parameters(self) -> int:
        """Trainable parameters of all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all layers for one image."""
        return sum(layer.multiply_adds for layer in self.layers)


@dataclass(frozen=True)
class Row:
    """Equal layers of a stage.

    Attributes:
        what: "3×3 conv, 64, /2".
        size, channels: of the output.
        count: the number of layers.
        parameters, multiply_adds: of all these layers.
    """

    what: str
    size: tuple[int, int]
    channels: int
    count: int
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Stage:
    """A stage as rows of equal layers; `parameters` and `multiply_adds` are the sums of all rows."""

    name: str
    rows: tuple[Row, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Shortcut:
    """A connection that skips layers.

    Attributes:
        start, end: places in `Architecture.layers` of convolutions, pools or dense layers of the main path: the
            output of `start` is added to that of `end`, or `end` reads it beside other outputs.
        kind: "identity", "zero padding" or "projection" if the output is added, "concatenation" if it is read.
    """

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Block:
    """Layers of one module, as places in `Architecture.layers`, and the number of equal modules in a row."""

    layers: tuple[int, ...]
    times: int


def caption(layer: Layer) -> str:
    """Returns a layer as the papers' figures write it: "3×3 conv, 64, /2"."""
    window = f"{layer.kernel}×{layer.kernel} " if layer.kernel else ""
    groups = f", {layer.groups} groups" if layer.groups > 1 else ""
    channels = f", {layer.channels}" if layer.kind in ("conv", "fc") else ""
    stride = f", /{layer.stride}" if layer.stride > 1 else ""
    return f"{window}{layer.kind}{channels}{groups}{stride}"


def by_stage(network: Architecture) -> tuple[Stage, ...]:
    """Returns the layers of each stage; equal layers are one row, and rows are in the order of their first layers."""
    stages = []
    for name in network.stages:
        alike: dict[tuple[str, tuple[int, int], int], list[Layer]] = {}
        for layer in network.layers:
            if layer.stage == name and layer.kind != "add":
                alike.setdefault((caption(layer), layer.size, layer.channels), []).append(layer)
        rows = tuple(
            Row(what, size, channels, len(layers), *_sums(layers)) for (what, size, channels), layers in alike.items()
        )
        stages.append(Stage(name, rows, *_sums(rows)))
    return tuple(stages)


def _sums(parts: Sequence[Layer] | Sequence[Row]) -> tuple[int, int]:
    return sum(part.parameters for part in parts), sum(part.multiply_adds for part in parts)


def main_path(network: Architecture) -> tuple[int, ...]:
    """Returns the longest path from the images to the logits, as places in `layers`."""
    length: list[int] = []
    for layer in network.layers:
        length.append(1 + max(length[read] if read != IMAGES else 0 for read in layer.reads))
    path = [len(network.layers) - 1]
    while (reads := network.layers[path[-1]].reads) != (IMAGES,):
        path.append(max(reads, key=lambda read: length[read]))
    return tuple(reversed(path))


def shown(network: Architecture) -> tuple[int, ...]:
    """Returns the layers of the main path that have a box in the papers' figures: no BatchNorms, no additions."""
    return tuple(index for index in main_path(network) if network.layers[index].kind not in PASSED_OVER)


def shortcuts(network: Architecture) -> tuple[Shortcut, ...]:
    """Returns the connections beside the main path, in the order of their ends."""
    path, boxes = main_path(network), shown(network)
    on_path = set(path)
    result = []
    for before, index in pairwise(path):
        layer = network.layers[index]
        for read in layer.reads:
            if read == before:
                continue
            source = read
            while source not in on_path:
                (source,) = network.layers[source].reads
            start = max(box for box in boxes if box <= source)
            if layer.kind == "add":
                same = (network.layers[source].size, network.layers[source].channels) == (layer.size, layer.channels)
                kind = "projection" if source != read else "identity" if same else "zero padding"
                result.append(Shortcut(start, max(box for box in boxes if box <= index), kind))
            else:
                result.append(Shortcut(start, min(box for box in boxes if box >= index), "concatenation"))
    return tuple(result)


def blocks(network: Architecture, *, merge: bool = True) -> tuple[Block, ...]:
    """Groups the boxes of `shown` by module; with `merge`, equal modules in a row are one block."""

    def module(index: int) -> tuple[str, str]:
        parent, _, own = network.layers[index].name.rpartition("/")
        return network.layers[index].stage, parent or own

    result: list[Block] = []
    looks: list[Any] = []
    for _, members in groupby(shown(network), module):
        layers = tuple(members)
        look = [(caption(network.layers[i]), network.layers[i].size, network.layers[i].stage) for i in layers]
        if merge and looks and looks[-1] == look:
            result[-1] = replace(result[-1], times=result[-1].times + 1)
        else:
            result.append(Block(layers, 1))
            looks.append(look)
    return tuple(result)
