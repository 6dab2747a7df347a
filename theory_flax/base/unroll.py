"""A network, or one stage of it, as x_L = x_1 + Σ h_l(x_l): the blocks of the real model, one by one.

No part of a network is written a second time: a `Step` calls the model's own block. Blocks of the same shape share a
compiled program, so that a thousand layers compile as fast as their three kinds of blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from layers_flax import Network
from theory_flax.base.blocks import Parts, Step, through


class Unrolled(NamedTuple):
    """A stage taken apart.

    With `residuals` h_1 … h_L, the model's own stage is: in pre-activation networks x_{l+1} = x_l + h_l(x_l); in
    post-activation ones x_{l+1} = relu(x_l + h_l(x_l)); in a DenseNet x_{l+1} is x_l and h_l(x_l) side by side.

    Attributes:
        x1: output of the stage's first block, (batch, height, width, channels); in a DenseNet the dense block's input.
        residuals: the pure functions h_l, one for each following block, or for each layer of a DenseNet's block.
        loss_of: x_L to the mean cross-entropy, a scalar.
    """

    x1: jax.Array
    residuals: tuple[Callable[[jax.Array], jax.Array], ...]
    loss_of: Callable[[jax.Array], jax.Array]


class Walk(NamedTuple):
    """A network from x_1 on: the steps of interest, and the loss behind them."""

    x1: jax.Array
    steps: tuple[Step, ...]
    loss_of: Callable[[jax.Array], jax.Array]  # of x_L

    def whole(self, x: jax.Array) -> jax.Array:
        """Computes x_L from x_1 by the real model's blocks or dense layers."""
        return through(self.steps, x)

    def loss_from(self, x: jax.Array) -> jax.Array:
        """Computes the loss from x_1 by the real model."""
        return self.loss_of(self.whole(x))


def unroll(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int | None, train: bool = False
) -> Unrolled:
    """Takes a stage of a residual or dense network apart.

    Args:
        model: a `ResNet` or `DenseNet`, with any options.
        variables: {"params", "batch_stats"}, which stay the same in train mode too.
        images: (batch, height, width, channels), in the network's compute type.
        labels: (batch,) integers.
        stage: counted from 0; None takes all blocks of the network, from the stem's output on.
        train: BatchNorm takes the batch's statistics, through which gradients flow.

    Raises:
        ValueError: the network lacks the stage or shortcuts, or drops some of them at random.
    """
    start = walk(model, variables, images, labels, stage=stage, train=train)
    return Unrolled(start.x1, tuple(step.residual for step in start.steps), start.loss_of)


def walk(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    stage: int | None,
    train: bool = False,
    all_blocks: bool = False,
) -> Walk:
    """Takes a stage apart like `unroll`, but into whole blocks.

    With `all_blocks` the stage's first block is one of the steps, and the network may be plain.
    """
    check(model, stage, train, plain=all_blocks)
    parts = Parts(model, variables, train)
    labels = jnp.asarray(labels)
    x = parts.stem(images)
    first = 0 if stage is None else stage
    last = parts.count - 1 if stage is None else stage
    for index in range(first):
        x = parts.stage(x, index)
    x = parts.enter(x, first)
    steps = tuple(step for index in range(first, last + 1) for step in parts.steps(index))
    if stage is not None and not all_blocks and getattr(model, "join", None) != "concatenate":
        x, steps = steps[0](x), steps[1:]
    return Walk(x, steps, lambda x: cross_entropy(parts.logits(x, last + 1), labels))


@dataclass(frozen=True)
class OwnResidual:
    """A block x + h(x) of the reader's own function h."""

    h: Callable[[jax.Array], jax.Array]
    shortcut = "B"

    def branches(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The shortcut and the residual, like those of a residual block."""
        return x, self.h(x)

    def apply(self, variables: Any, x: jax.Array, train: bool, method: str | None = None) -> Any:
        """Computes the block; called like the `apply` of a module without variables."""
        skip, residual = self.branches(x)
        return (skip, residual) if method == "branches" else skip + residual


def walk_of(
    x1: jax.Array, residuals: Sequence[Callable[[jax.Array], jax.Array]], loss_of: Callable[[jax.Array], jax.Array]
) -> Walk:
    """Makes the walk x_{l+1} = x_l + h_l(x_l) of the reader's own h_l."""
    steps = tuple(Step(OwnResidual(h), "add", False, {}) for h in residuals)
    return Walk(x1, steps, loss_of)


def by_blocks(model: nn.Module, variables: Any, *, train: bool = False) -> Callable[[jax.Array], jax.Array]:
    """Makes a function from images to logits of the model's own parts, with a compiled program for each kind of block.

    Networks without shortcuts are allowed too. Differentiate the function outside of `jax.jit`, which would compile the
    whole network as one program again.

    Args:
        model: a `ResNet`, `PlainNet` or `DenseNet`.
        variables: {"params", "batch_stats"}, which stay the same in train mode too.
        train: BatchNorm takes the batch's statistics, through which gradients flow.

    Raises:
        ValueError: the model is of another family.
    """
    if not isinstance(model, Network) or model.join is None:
        raise ValueError(f"blocks are known of ResNet, PlainNet and DenseNet; given {type(model).__name__}")
    parts = Parts(model, variables, train)
    return lambda images: parts.logits(parts.stem(images), 0)


def check(model: nn.Module, stage: int | None, train: bool, *, plain: bool = False) -> None:
    """Raises ValueError unless `model` has the stage and shortcuts (or `plain`), and drops nothing in train mode."""
    if not isinstance(model, Network) or model.join is None or not (model.has_shortcuts or plain):
        raise ValueError(f"the identity needs shortcuts: a ResNet or a DenseNet; {type(model).__name__} has none")
    for name in ("drop_path", "dropout"):
        if train and (share := getattr(model, name, 0.0)):
            raise ValueError(f"in train mode {name} would draw another network each time; it must be 0, not {share}")
    count = len(model.stage_sizes)
    if stage is None and model.join == "concatenate":
        raise ValueError(f"a DenseNet is taken apart by dense blocks: stage 0 to {count - 1}; given None")
    if stage is not None and not 0 <= stage < count:
        raise ValueError(f"stage must be from 0 to {count - 1}; given {stage}")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy over a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
