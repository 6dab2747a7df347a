"""A network, or one stage of it, as x_L = x_1 + Σ h_l(x_l): the blocks of the real model, one by one.

Nothing of a network is written a second time here: a `Step` calls the model's own block. Blocks of the same shape
share a compiled program, so that a thousand layers cost no more to compile than three kinds of them.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from densenet_flax import DenseNet
from resnet_flax import PlainNet, ResNet


class Unrolled(NamedTuple):
    """A stage taken apart.

    With `residuals` h_1 … h_L, the model's own stage is: in pre-activation networks x_{l+1} = x_l + h_l(x_l); in
    post-activation ones x_{l+1} = relu(x_l + h_l(x_l)); in a DenseNet x_{l+1} is x_l and h_l(x_l) side by side.

    Attributes:
        x1: output of the stage's first block, (batch, height, width, channels); of a DenseNet, what the block takes.
        residuals: the pure functions h_l, one for each block that follows (of a DenseNet: for each layer).
        loss_of: x_L to the mean cross-entropy, a scalar.
    """

    x1: jax.Array
    residuals: tuple[Callable[[jax.Array], jax.Array], ...]
    loss_of: Callable[[jax.Array], jax.Array]


class Step(NamedTuple):
    """A block, x_l to x_{l+1} = join(shortcut(x_l), h_l(x_l)).

    Attributes:
        block: the model's own, unbound.
        join: "add", "relu" of the sum, or "concatenate".
        train: whether BatchNorm takes the statistics of the batch.
        variables: the block's.
    """

    block: Any
    join: str
    train: bool
    variables: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        """The block as the model calls it; of a DenseNet, the layer and what it sees, side by side."""
        return _advance(*self, x)

    def residual(self, x: jax.Array) -> jax.Array:
        """h_l(x)."""
        return branches(self.block, self.train, self.variables, x)[1]

    def before_join(self, y: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A cotangent of the output y = x_{l+1}, taken to the shortcut and to the residual."""
        if self.join == "concatenate":
            width = self.block.growth_rate
            return cotangent[..., :-width], cotangent[..., -width:]
        masked = jnp.where(y > 0, cotangent, 0) if self.join == "relu" else cotangent
        return masked, masked


class Walk(NamedTuple):
    """A network from x_1 on: the steps that are looked at, and what comes after them."""

    x1: jax.Array
    steps: tuple[Step, ...]
    loss_of: Callable[[jax.Array], jax.Array]  # of x_L

    def whole(self, x: jax.Array) -> jax.Array:
        """x_1 to x_L, by the real model's blocks or dense layers, called as they are."""
        return through(self.steps, x)

    def loss_from(self, x: jax.Array) -> jax.Array:
        """x_1 to the loss, by the real model."""
        return self.loss_of(self.whole(x))


def unroll(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int | None, train: bool = False
) -> Unrolled:
    """Takes a stage of a residual or dense network apart.

    Args:
        model: a `ResNet` or `DenseNet`, with any options.
        variables: {"params", "batch_stats"}; nothing of it changes, in train mode either.
        images: (batch, height, width, channels), in the type that the network is to compute in.
        labels: (batch,) integers.
        stage: counted from 0; None takes all blocks of the network, from what the stem gives.
        train: BatchNorm takes the batch's statistics, through which gradients flow.

    Raises:
        ValueError: there is no such stage; the network has no shortcuts, or drops some of them at random.
    """
    start = walk(model, variables, images, labels, stage=stage, train=train)
    return Unrolled(start.x1, tuple(step.residual for step in start.steps), start.loss_of)


def walk(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int | None, train: bool = False
) -> Walk:
    """As `unroll`, with each block whole."""
    check(model, stage, train)
    return _walk(model, variables, images, labels, stage, train, after_first=stage is not None)


def walk_stage(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int, train: bool = False
) -> Walk:
    """As `walk`, with a stage's first block among its steps; of plain networks too, whose shortcuts are 0."""
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
    parts = _Parts(model, variables, train)
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
    if isinstance(model, DenseNet):
        x = parts.enter(x, first)
        return Walk(x, parts.steps(first), loss_of)
    steps = tuple(step for index in range(first, last + 1) for step in parts.steps(index))
    if after_first:
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
        """As a residual block's."""
        return x, self._h(x)

    def apply(self, variables: Any, x: jax.Array, train: bool, method: str | None = None) -> Any:
        """As Flax applies a module, which has no variables."""
        skip, residual = self.branches(x)
        return (skip, residual) if method == "branches" else skip + residual


def walk_of(
    x1: jax.Array, residuals: Sequence[Callable[[jax.Array], jax.Array]], loss_of: Callable[[jax.Array], jax.Array]
) -> Walk:
    """x_{l+1} = x_l + h_l(x_l) with the reader's own h_l."""
    steps = tuple(Step(OwnResidual(h), "add", False, {}) for h in residuals)
    return Walk(x1, steps, loss_of)


def by_blocks(model: nn.Module, variables: Any, *, train: bool = False) -> Callable[[jax.Array], jax.Array]:
    """Images to logits by the model's own parts, one compiled program for each kind of block.

    Works for networks without shortcuts too. Differentiate it outside of `jax.jit`: there a deep network would be
    compiled as one program again.

    Args:
        model: a `ResNet`, `PlainNet` or `DenseNet`.
        variables: {"params", "batch_stats"}; nothing of it changes, in train mode either.
        train: BatchNorm takes the batch's statistics, through which gradients flow.

    Raises:
        ValueError: the model is of another family.
    """
    if not isinstance(model, ResNet | DenseNet):
        raise ValueError(f"blocks are known of ResNet, PlainNet and DenseNet; given {type(model).__name__}")
    parts = _Parts(model, variables, train)

    def logits_of(images: jax.Array) -> jax.Array:
        x = parts.stem(images)
        for index in range(parts.count):
            x = parts.stage(x, index)
        return parts.head(x)

    return logits_of


def check(model: nn.Module, stage: int | None, train: bool, *, plain: bool = False) -> None:
    """Raises ValueError unless `model` has shortcuts (or is `plain`), the same ones each time, and the stage."""
    if (isinstance(model, PlainNet) and not plain) or not isinstance(model, ResNet | DenseNet):
        raise ValueError(f"the identity needs shortcuts: a ResNet or a DenseNet; {type(model).__name__} has none")
    dropped = {name: getattr(model, name, 0.0) for name in ("drop_path", "dropout")}
    for name, rate in dropped.items():
        if train and rate:
            raise ValueError(f"in train mode {name} would draw another network each time; it must be 0, not {rate}")
    count = len(model.stage_sizes if isinstance(model, ResNet) else model.block_sizes)
    if stage is None and isinstance(model, DenseNet):
        raise ValueError(f"of a DenseNet one dense block is looked at: stage 0 to {count - 1}; given None")
    if stage is not None and not 0 <= stage < count:
        raise ValueError(f"stage must be from 0 to {count - 1}; given {stage}")


def through(steps: Sequence[Step], x: jax.Array) -> jax.Array:
    """x_1 to x_L. Its gradient keeps the x_l alone, and runs each block again."""
    for step in steps:
        x = _advance_again(*step, x)
    return x


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@partial(jax.jit, static_argnums=(0, 1))
def branches(block: Any, train: bool, variables: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The shortcut of x and h(x), before they are joined; the shortcut of a plain block is zeros."""
    if hasattr(block, "branches"):
        skip, residual = block.apply(variables, x, train, method="branches")
        return (jnp.zeros_like(residual) if isinstance(skip, float) else skip), residual
    return x, block.apply(variables, x, train)


def join(kind: str, skip: jax.Array, residual: jax.Array) -> jax.Array:
    """What a block makes of its shortcut and its residual."""
    if kind == "concatenate":
        return jnp.concatenate([skip, residual], -1)
    return nn.relu(skip + residual) if kind == "relu" else skip + residual


@partial(jax.jit, static_argnums=(0, 1, 2))
def _advance(block: Any, kind: str, train: bool, variables: Any, x: jax.Array) -> jax.Array:
    y = block.apply(variables, x, train)
    return jnp.concatenate([x, y], -1) if kind == "concatenate" else y


_advance_again = jax.checkpoint(_advance, static_argnums=(0, 1, 2))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _call(module: Any, train: bool, method: str, variables: Any, *arguments: Any) -> jax.Array:
    return module.apply(variables, *arguments, train=train, method=method)


class _Parts:
    """The parts of a model with its variables, each compiled once for a shape."""

    def __init__(self, model: nn.Module, variables: Any, train: bool):
        self._model, self._variables, self._train = _plain(model), variables, train
        self._blocks = _blocks_of(self._model)
        self.count = len(self._blocks)

    def stem(self, images: jax.Array) -> jax.Array:
        return _call(self._model, self._train, "stem", self._variables, images)

    def head(self, x: jax.Array) -> jax.Array:
        return _call(self._model, self._train, "head", self._variables, x)

    def steps(self, index: int) -> tuple[Step, ...]:
        return tuple(Step(block, kind, self._train, self._of(path)) for path, block, kind in self._blocks[index])

    def stage(self, x: jax.Array, index: int) -> jax.Array:
        if isinstance(self._model, DenseNet):
            return self.leave(self.enter(x, index), index)
        return through(self.steps(index), x)

    def enter(self, x: jax.Array, index: int) -> jax.Array:
        """Of a DenseNet: what the transition before a block makes."""
        if index == 0:
            return x
        name, transition = f"transition{index}", _module(self._model, "transitions", index - 1)
        return _call(transition, self._train, "__call__", self._of((name,)), x)

    def leave(self, x: jax.Array, index: int) -> jax.Array:
        """Of a DenseNet: a whole block, called as the model calls it."""
        name, block = f"denseblock{index + 1}", _module(self._model, "blocks", index)
        return _call(block, self._train, "__call__", self._of((name,)), x)

    def _of(self, path: tuple[str, ...]) -> Any:
        def inner(tree: Any) -> Any:
            for name in path:
                tree = tree.get(name, {})
            return tree

        return {collection: inner(tree) for collection, tree in self._variables.items()}


def _plain(model: nn.Module) -> nn.Module:
    """The model without what changes no number here, and would keep blocks from sharing programs."""
    options: dict[str, Any] = dict(remat=False, axis_name=None)
    options |= dict(drop_path=0.0) if isinstance(model, ResNet) else dict(dropout=0.0)
    return model.clone(**options, parent=None, name=None)


@lru_cache(maxsize=64)
def _blocks_of(model: nn.Module) -> tuple[tuple[tuple[tuple[str, ...], nn.Module, str], ...], ...]:
    """Of each stage, each block's place among the variables, the block, and how it joins."""
    bound = model.bind({})
    if isinstance(model, DenseNet):
        return tuple(
            tuple(((block.name, layer.name), _free(layer), "concatenate") for layer in block.layers)
            for block in bound.blocks
        )
    kind = "add" if model.block.pre_activation else "relu"
    return tuple(tuple(((block.name,), _free(block), kind) for block in blocks) for blocks in bound.stages)


@lru_cache(maxsize=64)
def _module(model: nn.Module, parts: str, index: int) -> Any:
    return _free(getattr(model.bind({}), parts)[index])


def _free(module: Any) -> Any:
    """A module that equals its neighbours of the same options: a partial of the drop layer equals itself alone."""
    options = {"drop": type(module).drop} if hasattr(type(module), "drop") else {}
    return module.clone(parent=None, name=None, **options)
