"""Blocks of a real model, one by one, each compiled once for all blocks of its shape."""

from collections.abc import Sequence
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn


class Step(NamedTuple):
    """A block, x_l to x_{l+1} = join(shortcut(x_l), h_l(x_l)).

    Attributes:
        block: the model's own, unbound.
        join: "add", "relu" of the sum, or "concatenate", as `layers_flax.Network.join`.
        train: BatchNorm takes the statistics of the batch.
        variables: the block's.
    """

    block: Any
    join: str
    train: bool
    variables: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the block as the model does; a dense layer's output is concatenated to its input."""
        return _advance(*self, x)

    def residual(self, x: jax.Array) -> jax.Array:
        """Computes h_l(x)."""
        return branches(self.block, self.train, self.variables, x)[1]

    def before_join(self, y: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Carries a cotangent of the output y = x_{l+1} back to the shortcut and to the residual."""
        if self.join == "concatenate":
            width = self.block.growth_rate
            return cotangent[..., :-width], cotangent[..., -width:]
        masked = jnp.where(y > 0, cotangent, 0) if self.join == "relu" else cotangent
        return masked, masked


def through(steps: Sequence[Step], x: jax.Array) -> jax.Array:
    """Computes x_L from x_1. Its gradient keeps only the inputs x_l of blocks, and runs each block again."""
    for step in steps:
        x = _advance_again(*step, x)
    return x


@partial(jax.jit, static_argnums=(0, 1))
def branches(block: Any, train: bool, variables: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The shortcut of x and h(x), before they are joined; the shortcut of a plain block is zeros."""
    if hasattr(block, "branches"):
        skip, residual = block.apply(variables, x, train, method="branches")
        return (jnp.zeros_like(residual) if isinstance(skip, float) else skip), residual
    return x, block.apply(variables, x, train)


def join(kind: str, skip: jax.Array, residual: jax.Array) -> jax.Array:
    """A block's output from its shortcut and its residual."""
    if kind == "concatenate":
        return jnp.concatenate([skip, residual], -1)
    return nn.relu(skip + residual) if kind == "relu" else skip + residual


@partial(jax.jit, static_argnums=(0, 1, 2))
def _advance(block: Any, kind: str, train: bool, variables: Any, x: jax.Array) -> jax.Array:
    y = block.apply(variables, x, train)
    return jnp.concatenate([x, y], -1) if kind == "concatenate" else y


_advance_again = jax.checkpoint(_advance, static_argnums=(0, 1, 2))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _call(module: Any, train: bool, method: str, of_stage: tuple[int, ...], variables: Any, x: jax.Array) -> jax.Array:
    return module.apply(variables, x, *of_stage, train=train, method=method)


class Parts:
    """Parts of a model with its variables, each compiled once for a shape."""

    def __init__(self, model: Any, variables: Any, train: bool):
        self._model, self._variables, self._train = _plain(model), variables, train
        self._blocks = _blocks_of(self._model)
        self.count = len(self._blocks)

    def stem(self, images: jax.Array) -> jax.Array:
        return self._call("stem", images)

    def head(self, x: jax.Array) -> jax.Array:
        return self._call("head", x)

    def steps(self, index: int) -> tuple[Step, ...]:
        return tuple(Step(block, kind, self._train, self._of(path)) for path, block, kind in self._blocks[index])

    def stage(self, x: jax.Array, index: int) -> jax.Array:
        # A dense block as a whole computes the statistics of each map once; its layers one by one would repeat them.
        if self._model.join == "concatenate":
            return self._call("stage", x, index)
        return through(self.steps(index), x)

    def enter(self, x: jax.Array, index: int) -> jax.Array:
        """Computes the input of a stage's first block from the input of the stage, by a DenseNet's transition."""
        return self._call("enter", x, index) if index > 0 and self._model.join == "concatenate" else x

    def logits(self, x: jax.Array, index: int) -> jax.Array:
        """Computes the logits from the input of stage `index`, or from the output of the last stage."""
        for later in range(index, self.count):
            x = self.stage(x, later)
        return self.head(x)

    def _call(self, method: str, x: jax.Array, *of_stage: int) -> jax.Array:
        return _call(self._model, self._train, method, of_stage, self._variables, x)

    def _of(self, path: tuple[str, ...]) -> Any:
        def inner(tree: Any) -> Any:
            return reduce(lambda part, name: part.get(name, {}), path, tree)

        return {collection: inner(tree) for collection, tree in self._variables.items()}


def _plain(model: Any) -> Any:
    """Removes options that change no number here, but would keep blocks from sharing programs."""
    options: dict[str, Any] = dict(remat=False, axis_name=None)
    options |= {name: 0.0 for name in ("drop_path", "dropout") if hasattr(model, name)}
    return model.clone(**options, parent=None, name=None)


@lru_cache(maxsize=64)
def _blocks_of(model: Any) -> tuple[tuple[tuple[tuple[str, ...], nn.Module, str], ...], ...]:
    """Returns for each stage its blocks: path among the variables, the block, and its kind of join."""
    stages = model.bind({}).stages
    return tuple(tuple((block.path, _free(block), model.join) for block in blocks) for blocks in stages)


def _free(module: Any) -> Any:
    """Makes a module that is equal to all others with the same options."""
    # The `partial` that makes the drop layer equals only itself, so the class's own default replaces it.
    options = {"drop": type(module).drop} if hasattr(type(module), "drop") else {}
    return module.clone(parent=None, name=None, **options)
