"""Feature reuse: direct supervision of layers by the loss, weights on earlier features, errors (Huang 2017, section 5).

The loss reaches a layer's output h_l in two ways. In a dense block the concatenation carries ∂L/∂x_L back to h_l
unchanged ("implicit deep supervision": the transition or the classifier reads h_l itself), and later layers, which read
h_l too, add their parts:

    ∂L/∂h_l = [∂L/∂x_L]_l + Σ_{m > l} (∂h_m/∂h_l)ᵀ …

In a residual stage the additions carry the gradient directly, in post-activation networks through the masks of the
ReLUs. In a plain stage each block but the last learns through the next block alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from densenet_flax import DenseNet
from resnet_flax import BasicBlock, PlainNet, ResNet
from theory_flax.base.unroll import walk
from theory_flax.gradient_identity.claim import both_ways


@dataclass(frozen=True)
class Supervision:
    """The gradient at each layer of a dense block, or each residual of a stage. Arrays are float64, (layers,).

    Attributes:
        total: ‖∂L/∂h_l‖.
        direct: norm of the part that comes from the stage's end through concatenations or shortcuts alone.
        through_layers: norm of the rest, which has passed at least one later layer.
        direct_share: the share of ‖∂L/∂h_l‖ that the direct part contributes, ⟨direct, total⟩ / ‖total‖². It is 1 for
            the last layer, and over 1 where the rest points against the direct part.
    """

    total: np.ndarray
    direct: np.ndarray
    through_layers: np.ndarray
    direct_share: np.ndarray


def supervision(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int, train: bool = False
) -> Supervision:
    """Splits the gradient at each layer's output into its direct part and the rest, in one stage of the real model.

    Two cotangents go back from the stage's end, block by block: the whole gradient, and the part that shortcuts or the
    concatenation alone carry. At each h_l they are ∂L/∂h_l and its direct part.

    Args, errors: as `theory_flax.unroll`. The model may be a `PlainNet` too, and the stage's first block is included.
    """
    start = walk(model, variables, images, labels, stage=stage, train=train, all_blocks=True)
    rows = [_row(*at_residual) for _, at_residual in both_ways(start) if at_residual]
    return Supervision(*np.array(rows[::-1]).T)


def _row(total: jax.Array, direct: jax.Array) -> tuple[float, float, float, float]:
    whole, part = np.asarray(total, np.float64).ravel(), np.asarray(direct, np.float64).ravel()
    norm = float(np.linalg.norm(whole))
    share = float(part @ whole) / norm**2 if norm else math.nan
    return norm, float(np.linalg.norm(part)), float(np.linalg.norm(whole - part)), share


def of_same_depth(model: nn.Module) -> tuple[ResNet, PlainNet]:
    """Makes a residual and a plain network with as many convolutions in each stage as a DenseNet has in each block.

    A residual or plain block has two convolutions, as a dense layer with a bottleneck has. Dense layers without a
    bottleneck have one, so that one block replaces two of them; an odd number is rounded up. The shortcuts have no
    parameters (He 2015, option A), so that both networks take the same variables.

    Raises:
        ValueError: the model is not a DenseNet.
    """
    if not isinstance(model, DenseNet):
        raise ValueError(f"feature reuse is that of a DenseNet; given {type(model).__name__}")
    convolutions = 1 if model.bottleneck_width is None else 2
    sizes = tuple(math.ceil(size * convolutions / 2) for size in model.block_sizes)
    options: dict[str, Any] = dict(num_classes=model.num_classes, stem_type=model.stem_type, dtype=model.dtype)
    options |= dict(width=64 if model.stem_type == "imagenet" else 16)
    return ResNet(sizes, BasicBlock, shortcut="A", **options), PlainNet(sizes, BasicBlock, **options)


@dataclass(frozen=True)
class Published:
    """A published error on CIFAR-10 with flips and shifts.

    Attributes:
        arch: the network's name in this project.
        error: in %, of one run, or of the best run where the paper reports that.
        source: the paper's table.
    """

    arch: str
    error: float
    source: str


HE, HUANG = "He 2015, table 6", "Huang 2017, table 2"
PUBLISHED = (
    Published("resnet20", 8.75, HE),
    Published("resnet32", 7.51, HE),
    Published("resnet44", 7.17, HE),
    Published("resnet56", 6.97, HE),
    Published("resnet110", 6.43, HE),
    Published("resnet1202", 7.93, HE),
    Published("densenet_40_12", 5.24, HUANG),
    Published("densenet_100_12", 4.10, HUANG),
    Published("densenet_100_24", 3.74, HUANG),
    Published("densenet_bc_100_12", 4.51, HUANG),
    Published("densenet_bc_250_24", 3.62, HUANG),
    Published("densenet_bc_190_40", 3.46, HUANG),
    Published("resnet164_v2", 5.46, HUANG),
    Published("resnet1001_v2", 4.62, HUANG),
)


@dataclass(frozen=True)
class Reuse:
    """The observations of Huang 2017, section 5, as numbers for each dense block: ratios of mean absolute weights.

    Attributes:
        input_row: the layers' weight on the block's input, divided by their weight on each other's features. In the
            paper it is least in the second and third block.
        last_sources: the weight of the block's reader (the transition, or the classifier) on the last third of the
            layers, divided by its weight on the first third. In the paper the classifier prefers the last.
        unevenness: the standard deviation of a layer's weights over its sources, divided by their mean; averaged over
            layers with several sources. 0 at initialisation, up to sampling.
    """

    input_row: tuple[float, ...]
    last_sources: tuple[float, ...]
    unevenness: tuple[float, ...]


def reuse_of(weights: Sequence[np.ndarray]) -> Reuse:
    """Summarises the result of `densenet_flax.feature_reuse`, block by block; nan where a block has one layer."""
    inputs, last, uneven = [], [], []
    for block in weights:
        layers = block[:, :-1]
        rows = [layers[0, target] / layers[1 : target + 1, target].mean() for target in range(1, layers.shape[1])]
        third = max(1, layers.shape[1] // 3)
        reader = block[1:, -1]
        sources = [block[: target + 1, target] for target in range(1, len(block))]
        inputs.append(float(np.mean(rows)) if rows else math.nan)
        last.append(float(reader[-third:].mean() / reader[:third].mean()))
        uneven.append(float(np.mean([np.std(weights) / np.mean(weights) for weights in sources])))
    return Reuse(tuple(inputs), tuple(last), tuple(uneven))
