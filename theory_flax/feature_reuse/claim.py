"""What a layer's features are for: who is supervised directly, and what an error costs (Huang 2017, section 5).

The loss reaches a layer's output h_l in two ways. In a dense block the concatenation carries ∂L/∂x_L back to h_l as it
is ("implicit deep supervision": the transition or the classifier reads h_l itself), and later layers, which read h_l
too, add theirs:

    ∂L/∂h_l = [∂L/∂x_L]_l + Σ_{m > l} (∂h_m/∂h_l)ᵀ …

In a residual stage the additions carry it directly, through the masks of the ReLUs in post-activation networks. In a
plain one nothing does: all but the last block learn through the next.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from densenet_flax import DenseNet
from resnet_flax import BasicBlock, PlainNet, ResNet
from theory_flax.base.unroll import walk_stage
from theory_flax.gradient_identity.claim import backwards, inputs_of, pull


@dataclass(frozen=True)
class Supervision:
    """How the loss reaches each layer of a dense block, or each residual of a stage. Arrays are float64, (layers,).

    Attributes:
        total: ‖∂L/∂h_l‖.
        direct: ‖what of it comes through concatenations or shortcuts alone, from the stage's end‖.
        through_layers: ‖the rest, which has passed at least one later layer‖.
        direct_share: what the direct part contributes to ‖∂L/∂h_l‖, ⟨direct, total⟩ / ‖total‖²; 1 of the last layer,
            over 1 where the other part points against it.
    """

    total: np.ndarray
    direct: np.ndarray
    through_layers: np.ndarray
    direct_share: np.ndarray


def supervision(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int, train: bool = False
) -> Supervision:
    """Takes the gradient at each layer's output apart, in one stage of the real model.

    Two cotangents go back from the stage's end, block by block: the whole, and what shortcuts or the concatenation
    alone carry. What of them arrives at each h_l is ∂L/∂h_l and its direct part.

    Args:
        model: a `DenseNet`, `ResNet` or `PlainNet`, with any options.
        variables: {"params", "batch_stats"}; nothing of it changes, in train mode either.
        images: (batch, height, width, channels), in the type that the network is to compute in.
        labels: (batch,) integers.
        stage: counted from 0; all its layers are looked at, the first included.
        train: BatchNorm takes the batch's statistics, through which gradients flow.

    Raises:
        ValueError: the model is of another kind, there is no such stage, or layers are dropped at random.
    """
    start = walk_stage(model, variables, images, labels, stage=stage, train=train)
    *inputs, last = inputs_of(start.steps, start.x1)
    total = along = jax.grad(start.loss_of)(last)
    rows = []
    for step, x, y in backwards(start.steps, inputs, last):
        (by_shortcut, direct), both = step.before_join(y, along), step.before_join(y, total)
        rows.append(_row(both[1], direct))
        total, along = pull(step, x, [both, (by_shortcut, jnp.zeros_like(direct))])
    return Supervision(*np.array(rows[::-1]).T)


def _row(total: jax.Array, direct: jax.Array) -> tuple[float, float, float, float]:
    whole, part = np.asarray(total, np.float64).ravel(), np.asarray(direct, np.float64).ravel()
    norm = float(np.linalg.norm(whole))
    share = float(part @ whole) / norm**2 if norm else math.nan
    return norm, float(np.linalg.norm(part)), float(np.linalg.norm(whole - part)), share


def of_same_depth(model: nn.Module) -> tuple[ResNet, PlainNet]:
    """A residual and a plain network with as many convolutions in each stage as a DenseNet has in each block.

    Their blocks have two, as a dense layer with its bottleneck has; two layers without it make one block (the last of
    an odd number, too). Shortcuts have no parameters (He 2015, option A), so that both take the same variables.

    Raises:
        ValueError: the model is no DenseNet.
    """
    if not isinstance(model, DenseNet):
        raise ValueError(f"feature reuse is that of a DenseNet; given {type(model).__name__}")
    convolutions = 1 if model.bottleneck_width is None else 2
    sizes = tuple(math.ceil(size * convolutions / 2) for size in model.block_sizes)
    options: dict[str, Any] = dict(num_classes=model.num_classes, stem_kind=model.stem_kind, dtype=model.dtype)
    options |= dict(width=64 if model.stem_kind == "imagenet" else 16)
    return ResNet(sizes, BasicBlock, shortcut="A", **options), PlainNet(sizes, BasicBlock, **options)


@dataclass(frozen=True)
class Published:
    """A published error on CIFAR-10 with flips and shifts.

    Attributes:
        arch: name of the network here.
        error: %, of one run or, where the paper gives it, the best.
        source: the paper's table.
    """

    arch: str
    error: float
    source: str


PUBLISHED = tuple(
    Published(arch, error, source)
    for source, errors in {
        "He 2015, table 6": {
            "resnet20": 8.75,
            "resnet32": 7.51,
            "resnet44": 7.17,
            "resnet56": 6.97,
            "resnet110": 6.43,
            "resnet1202": 7.93,
        },
        "Huang 2017, table 2": {
            "densenet_40_12": 5.24,
            "densenet_100_12": 4.10,
            "densenet_100_24": 3.74,
            "densenet_bc_100_12": 4.51,
            "densenet_bc_250_24": 3.62,
            "densenet_bc_190_40": 3.46,
            "resnet164_v2": 5.46,
            "resnet1001_v2": 4.62,
        },
    }.items()
    for arch, error in errors.items()
)


@dataclass(frozen=True)
class Reuse:
    """What Huang 2017, section 5, sees in the figure, as numbers: each is a ratio of mean absolute weights.

    Attributes:
        input_row: of each dense block, what its layers give to the block's input, over what they give to each other's
            features. The paper: least, of the second block and the third.
        last_sources: of each block, what its reader (the transition, or the classifier) gives to the last third of the
            layers, over what it gives to the first third. The paper: the classifier prefers the last.
        unevenness: of each block, the standard deviation of a layer's weights over its sources, over their mean, on
            average over layers with several sources. 0 at initialisation, up to sampling.
    """

    input_row: tuple[float, ...]
    last_sources: tuple[float, ...]
    unevenness: tuple[float, ...]


def reuse_of(weights: Sequence[np.ndarray]) -> Reuse:
    """Sums up what `densenet_flax.feature_reuse` gives, block by block; nan where a block has one layer."""
    inputs, last, uneven = [], [], []
    for block in weights:
        layers = block[:, :-1]
        rows = [layers[0, target] / layers[1 : target + 1, target].mean() for target in range(1, layers.shape[1])]
        third = max(1, layers.shape[1] // 3)
        reader = block[1:, -1]
        spread = [
            np.std(block[: target + 1, target]) / np.mean(block[: target + 1, target])
            for target in range(1, len(block))
        ]
        inputs.append(float(np.mean(rows)) if rows else math.nan)
        last.append(float(reader[-third:].mean() / reader[:third].mean()))
        uneven.append(float(np.mean(spread)))
    return Reuse(tuple(inputs), tuple(last), tuple(uneven))
