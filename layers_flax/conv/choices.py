"""Tables of formulas for convolutions on the CPU. The first row that a layer fits decides; without one it is XLA's own.

Accelerators take XLA's own everywhere, and so do programs whose number of images is a symbol (`jax.export`): they may
run on any of them.

`python -m benchmarks.layers` measures each formula on each layer of all architectures; docs/layers.md has the results.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import NamedTuple

import jax

from layers_flax.autodiff.backend import backend

# JAX keeps what it has traced, and traces again where this value differs.
_plain = jax.make_user_context(False)


class Shape(NamedTuple):
    """A convolution and its images.

    Attributes:
        batch: images; None where their number or size is a symbol (`jax.export`).
        size: height and width of an image.
        inputs, outputs: channels of all groups.
        taps: height and width of the kernel.
        stride: of both axes.
        pads: zeros before and behind, of either axis.
        groups: of channels that do not see each other.
        bytes: of a number.
    """

    batch: int | None
    size: tuple[int, int]
    inputs: int
    outputs: int
    taps: tuple[int, int]
    stride: int
    pads: tuple[tuple[int, int], tuple[int, int]]
    groups: int
    bytes: int

    @property
    def pixels_out(self) -> int:
        """Pixels of one output image."""
        return prod(
            (size + sum(pad) - taps) // self.stride + 1
            for size, taps, pad in zip(self.size, self.taps, self.pads, strict=True)
        )

    @property
    def centred(self) -> bool:
        """A kernel of odd size that is padded by half its size, so that stride 1 keeps the image's."""
        return all(taps % 2 == 1 and pad == (taps // 2,) * 2 for taps, pad in zip(self.taps, self.pads, strict=True))


class Choice(NamedTuple):
    """A row: the formula's name, a test for layers, and the reason."""

    formula: str
    fits: Callable[[Shape], bool]
    why: str


def shape_of(x: jax.Array, kernel: jax.Array, stride: int, pads: tuple[tuple[int, int], tuple[int, int]]) -> Shape:
    """The shape of a convolution of (batch, height, width, in) with (kernel_h, kernel_w, in / groups, out)."""
    batch, height, width, inputs = x.shape
    *taps, per_group, outputs = kernel.shape
    groups = inputs // max(1, per_group)
    number = batch if all(isinstance(size, int) for size in (batch, height, width)) else None
    return Shape(number, (height, width), inputs, outputs, (taps[0], taps[1]), stride, pads, groups, x.dtype.itemsize)


def row_of(table: Sequence[Choice], shape: Shape) -> Choice | None:
    """The first row that the layer fits.

    None on accelerators, in programs for any backend, and where operations are counted.
    """
    if _plain.value or shape.batch is None or backend() != "cpu":
        return None
    return next((row for row in table if row.fits(shape)), None)


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """A context in which each convolution is traced as one of XLA's, whatever formula runs elsewhere."""
    with _plain(True):
        yield


def choose(table: Sequence[Choice], shape: Shape) -> str | None:
    """The name of the formula; None is XLA's convolution."""
    row = row_of(table, shape)
    return row.formula if row else None


CUT = "a dot would first have to copy the pixels that it reads"


def _one_by_one(layer: Shape) -> bool:
    """1×1, no padding, one group"""
    return layer.groups == 1 and layer.taps == (1, 1) and layer.pads == ((0, 0), (0, 0))


def _strided(layer: Shape) -> bool:
    """1×1, no padding, one group, a stride of more than 1"""
    return _one_by_one(layer) and layer.stride > 1


def _tiny(layer: Shape) -> bool:
    """at most 4 pixels out, one group"""
    return layer.groups == 1 and layer.pixels_out <= 4


def _few_channels_a_group(layer: Shape) -> bool:
    """several groups of at most 16 channels, in all 256, or 512 to more than 200 pixels"""
    most = 512 if (layer.batch or 0) * layer.pixels_out > 200 else 256
    return layer.groups > 1 and layer.inputs // layer.groups <= 16 and layer.inputs <= most


CONVOLUTION = (
    Choice("stock, differentiated as a dot", _strided, CUT),
    Choice("dot of pixels", _one_by_one, "XLA reads a factor of gradients against its order"),
    Choice("dot of patches", _tiny, "XLA's convolution takes ten times as long"),
    # More channels would mean more than 16 convolutions to compile.
    Choice("groups together", _few_channels_a_group, "XLA's convolution of groups goes pixel by pixel"),
)


def _wide(layer: Shape) -> bool:
    """any other of one group"""
    # In half precision sums over blocks of images would lose digits.
    return layer.groups == 1 and layer.bytes >= 4


def _keeps_size(layer: Shape) -> bool:
    return _wide(layer) and layer.stride == 1 and layer.centred


def _to_few_channels(layer: Shape) -> bool:
    """stride 1, keeps the size, out no multiple of 16 and at most in by the kernel's width, in no multiple of 1024"""
    few = layer.taps[1] * layer.outputs <= layer.inputs
    # With 1024 channels all pixels compete for the same lines of the cache, and a dot takes twice as long.
    return _keeps_size(layer) and few and layer.outputs % 16 > 0 and layer.inputs % 1024 > 0


def _few_channels(layer: Shape) -> bool:
    """stride 1, keeps the size, 4 to 31 channels in, or 32 of at most 512 pixels in all, at most 32 out"""
    most = 32 if (layer.batch or 0) * prod(layer.size) <= 512 else 31
    return _keeps_size(layer) and 3 < layer.inputs <= most and layer.outputs <= 32


def _grouped(layer: Shape) -> bool:
    """several groups"""
    return layer.groups > 1 and layer.bytes >= 4


# Formulas for the gradient of the kernel.
KERNEL_GRADIENT = (
    Choice("dots of groups", _grouped, "XLA's own takes up to a hundred times as long"),
    Choice("dots, then shifts", _to_few_channels, "the gradient's shifts have fewer channels than the image"),
    Choice("balanced", _few_channels, "blocks of images stay in the cache"),
    Choice("channels as images", _wide, "XLA's own, but fast inside of loops as well"),
)


def _to_one_block(layer: Shape) -> bool:
    """one group, square kernel, stride 1, keeps the size, more than 16 channels in, at most 64 out, 28 rows or more"""
    square = layer.taps[0] == layer.taps[1] > 1
    channels = layer.inputs > 16 and layer.outputs <= 64
    return layer.groups == 1 and square and layer.stride == 1 and layer.centred and channels and layer.size[0] >= 28


# Formulas for inference, which needs no gradient of the kernel; without a fitting row CONVOLUTION decides. XLA leaves
# convolutions to its library YNNPACK unless an option forbids it.
INFERENCE = (
    Choice("stock", _strided, CUT),
    Choice("a row too many", _to_one_block, "YNNPACK computes 64 channels on one core, this runs on all"),
)
