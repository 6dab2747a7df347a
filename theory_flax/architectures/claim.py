"""Networks as tables and graphs of their layers (He 2015, figure 3; Huang 2017, figures 1 and 2).

Nothing of a network is written down here. A model is traced by shape alone, stage by stage as it is called, and its
layers, their sizes and what each reads are found in the trace: a shortcut is a value that an addition takes from
further back, a dense connection one that a convolution reads from several layers.
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
        name: its place among the variables, "layer1_0/conv1"; of what has none, where it is.
        kind: "conv", "fc", "batch norm", "max pool", "average pool", "global average pool" or "add".
        stage: "stem", "stage 1", … or "head".
        kernel: height and width of the window; None where there is none.
        stride: of both axes.
        groups: of channels that do not see each other.
        channels: of the output.
        size: height and width of the output; (1, 1) behind the global pool.
        parameters: trainable ones.
        multiply_adds: for one image.
        reads: the layers whose outputs it takes, in the order of their channels, as places in `Architecture.layers`;
            IMAGES is the images.
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
    """A network as it is run on one image.

    Attributes:
        name: what to call it.
        image_shape: (height, width, channels).
        layers: in the order in which they are run.
    """

    name: str
    image_shape: tuple[int, ...]
    layers: tuple[Layer, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in which there are layers."""
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
        count: how many there are.
        parameters, multiply_adds: of all of them.
    """

    what: str
    size: tuple[int, int]
    channels: int
    count: int
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Stage:
    """A stage by its layers; `parameters` and `multiply_adds` are those of all rows."""

    name: str
    rows: tuple[Row, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Shortcut:
    """A connection that leaves layers out.

    Attributes:
        start, end: places in `Architecture.layers` of convolutions, pools or dense layers of the main path: the
            output of `start` is added to that of `end`, or read by `end` beside others.
        kind: "identity", "zero padding" or "projection" of what is added; "concatenation" of what is read.
    """

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Block:
    """Layers of one module, as places in `Architecture.layers`, and how many such modules follow each other."""

    layers: tuple[int, ...]
    times: int


def describe(layer: Layer) -> str:
    """A layer as the papers' figures write it: "3×3 conv, 64, /2"."""
    window = f"{layer.kernel}×{layer.kernel} " if layer.kernel else ""
    groups = f", {layer.groups} groups" if layer.groups > 1 else ""
    channels = f", {layer.channels}" if layer.kind in ("conv", "fc") else ""
    stride = f", /{layer.stride}" if layer.stride > 1 else ""
    return f"{window}{layer.kind}{channels}{groups}{stride}"


def by_stage(found: Architecture) -> tuple[Stage, ...]:
    """The layers of each stage, equal ones together, in the order in which they first occur."""
    stages = []
    for name in found.stages:
        alike: dict[tuple[str, tuple[int, int], int], list[Layer]] = {}
        for layer in found.layers:
            if layer.stage == name and layer.kind != "add":
                alike.setdefault((describe(layer), layer.size, layer.channels), []).append(layer)
        rows = tuple(
            Row(what, size, channels, len(layers), *_sums(layers)) for (what, size, channels), layers in alike.items()
        )
        stages.append(Stage(name, rows, *_sums(rows)))
    return tuple(stages)


def _sums(parts: Sequence[Layer] | Sequence[Row]) -> tuple[int, int]:
    return sum(part.parameters for part in parts), sum(part.multiply_adds for part in parts)


def main_path(found: Architecture) -> tuple[int, ...]:
    """The longest way from the images to the logits, as places in `layers`."""
    length: list[int] = []
    for layer in found.layers:
        length.append(1 + max(length[read] if read != IMAGES else 0 for read in layer.reads))
    path = [len(found.layers) - 1]
    while (reads := found.layers[path[-1]].reads) != (IMAGES,):
        path.append(max(reads, key=lambda read: length[read]))
    return tuple(reversed(path))


def shown(found: Architecture) -> tuple[int, ...]:
    """The main path without BatchNorms and additions: what the papers' figures have a box for."""
    return tuple(index for index in main_path(found) if found.layers[index].kind not in PASSED_OVER)


def shortcuts(found: Architecture) -> tuple[Shortcut, ...]:
    """The connections beside the main path, in the order of their ends."""
    path, boxes = main_path(found), shown(found)
    on_path = set(path)
    result = []
    for before, index in pairwise(path):
        layer = found.layers[index]
        for read in layer.reads:
            if read == before:
                continue
            source = read
            while source not in on_path:
                (source,) = found.layers[source].reads
            start = max(box for box in boxes if box <= source)
            if layer.kind == "add":
                same = (found.layers[source].size, found.layers[source].channels) == (layer.size, layer.channels)
                kind = "projection" if source != read else "identity" if same else "zero padding"
                result.append(Shortcut(start, max(box for box in boxes if box <= index), kind))
            else:
                result.append(Shortcut(start, min(box for box in boxes if box >= index), "concatenation"))
    return tuple(result)


def blocks(found: Architecture, *, merge: bool = True) -> tuple[Block, ...]:
    """The boxes of `shown` by module; with `merge`, equal modules that follow each other are one block."""

    def module(index: int) -> tuple[str, str]:
        parent, _, own = found.layers[index].name.rpartition("/")
        return found.layers[index].stage, parent or own

    result: list[Block] = []
    looks: list[Any] = []
    for _, members in groupby(shown(found), module):
        layers = tuple(members)
        look = [(describe(found.layers[i]), found.layers[i].size, found.layers[i].stage) for i in layers]
        if merge and looks and looks[-1] == look:
            result[-1] = replace(result[-1], times=result[-1].times + 1)
        else:
            result.append(Block(layers, 1))
            looks.append(look)
    return tuple(result)
