"""A network, or one stage of it, as x_L = x_1 + Σ h_l(x_l): the blocks of the real model, one by one.

No part of a network is written a second time: a `Step` calls the model's own block. Blocks of the same shape share a
compiled program, so that a thousand layers compile as fast as their three kinds of blocks.
"""

from collections.abc import Callable, Sequence
from functools import partial
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
        x1: output of the stage's first block, (batch, height, width, channels); in a DenseNet, its block's input.
        residuals: the pure functions h_l, one for each following block (in a DenseNet: for each layer).
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
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int | None, train: bool = False
) -> Walk:
    """Takes a stage apart like `unroll`, but into whole blocks."""
    check(model, stage, train)
    return _walk(model, variables, images, labels, stage, train, after_first=stage is not None)


def walk_stage(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int, train: bool = False
) -> Walk:
    """Takes a stage apart like `walk`, with the first block among its steps; plain networks too."""
    check(model, stage, train, plain=True)
    return _walk(model, variables, images, labels, stage, train, after_first=False)


def _walk(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    stage: int | None,
    train: bool,
    *,
    after_first: bool,
) -> Walk:
    parts = Parts(model, variables, train)
    labels = jnp.asarray(labels)

    def rest(x: jax.Array, after: int) -> jax.Array:
        for index in range(after, parts.count):
            x = parts.stage(x, index)
        return cross_entropy(parts.head(x), labels)

    x = parts.stem(images)
    first = 0 if stage is None else stage
    last = parts.count - 1 if stage is None else stage
    for index in range(first):
        x = parts.stage(x, index)
    loss_of = partial(rest, after=last + 1)
    x = parts.enter(x, first)
    steps = tuple(step for index in range(first, last + 1) for step in parts.steps(index))
    if after_first and getattr(model, "join", None) != "concatenate":
        x, steps = steps[0](x), steps[1:]
    return Walk(x, steps, loss_of)


class OwnResidual:
    """A block x + h(x) of the reader's own function h."""

    shortcut = "B"

    def __init__(self, h: Callable[[jax.Array], jax.Array]):
        self._h = h

    def __hash__(self) -> int:
        return hash(self._h)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnResidual) and other._h == self._h

    def branches(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The shortcut and the residual, like those of a residual block."""
        return x, self._h(x)

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

    It works for networks without shortcuts too. Differentiate it outside of `jax.jit`, which would compile the whole
    network as one program again.

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

    def logits_of(images: jax.Array) -> jax.Array:
        x = parts.stem(images)
        for index in range(parts.count):
            x = parts.stage(x, index)
        return parts.head(x)

    return logits_of


def check(model: nn.Module, stage: int | None, train: bool, *, plain: bool = False) -> None:
    """Raises ValueError unless `model` has shortcuts (or is `plain`), the same ones each time, and the stage."""
    if not isinstance(model, Network) or model.join is None or not (model.has_shortcuts or plain):
        raise ValueError(f"the identity needs shortcuts: a ResNet or a DenseNet; {type(model).__name__} has none")
    dropped = {name: getattr(model, name, 0.0) for name in ("drop_path", "dropout")}
    for name, rate in dropped.items():
        if train and rate:
            raise ValueError(f"in train mode {name} would draw another network each time; it must be 0, not {rate}")
    count = len(getattr(model, "stage_sizes"))  # noqa: B009
    if stage is None and model.join == "concatenate":
        raise ValueError(f"a DenseNet is taken apart by dense blocks: stage 0 to {count - 1}; given None")
    if stage is not None and not 0 <= stage < count:
        raise ValueError(f"stage must be from 0 to {count - 1}; given {stage}")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
