"""Blocks of a stage as one loop: a network of a thousand layers compiles in the time of a few blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import InvalidRngError
from jax import lax

# layer1_0 stays as it is; layer1_1, layer1_2, … together are layer1_rest.
REST = "rest"


def stack_blocks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables whose blocks behind the first of a stage are one: each leaf is an array (blocks, …) of theirs.

    A network of `scan=True` takes them in place of those of `init`; gradients and new statistics then have the same
    form. With a thousand unstacked leaves in place of a dozen, most compiled code would only copy leaves. An optimizer
    sees a stage's blocks as one array: optimizers that take norms of leaves (LARS, LAMB) need variables block by block,
    and so do all other functions of this project.

    Args:
        variables: {"params", "batch_stats"} of a `ResNet`, or one of them: {"layer1_0", "layer1_1", …} in each.

    Returns:
        New dictionaries; "layer1_rest" stands for "layer1_1", "layer1_2", … of each stage with two of these or more.
    """
    return {name: _stacked(collection) for name, collection in variables.items()}


def unstack_blocks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_blocks`; variables that are block by block stay so."""
    return {name: _unstacked(collection) for name, collection in variables.items()}


def stack_of(blocks: Sequence[nn.Module]) -> dict[str, Any]:
    """The stacked variables of bound blocks, by collection."""
    return _stack([dict(block.variables) for block in blocks])


def roll(
    block: nn.Module, stacked: Any, x: jax.Array, train: bool, *, update: bool, remat: bool
) -> tuple[jax.Array, Any]:
    """Applies blocks to `x` one after another, as a loop over their stacked variables.

    The backward pass keeps only each block's input and runs the block again: a loop would have to copy all other values
    into arrays of all blocks.

    Args:
        block: keeps the shape of `x` and draws no random numbers; unbound.
        stacked: its variables by collection, leaves (blocks, …).
        x: (batch, height, width, channels).
        train: as in a call of a block.
        update: return new running statistics.
        remat: the block is `layers_flax.remat`'s, and runs again by itself.

    Returns:
        The last block's output, and the new "batch_stats", stacked, or {}.
    """

    def body(x: jax.Array, variables: Any) -> Any:
        try:
            return block.apply(variables, x, train, mutable=["batch_stats"] if update else [])
        except InvalidRngError as error:
            raise ValueError(f"with scan=True a {type(block).__name__} must draw no random numbers") from error

    if not remat:
        body = jax.checkpoint(body, prevent_cse=False)
    x, updates = lax.scan(body, x, stacked)
    return x, updates.get("batch_stats", {})


def unstack(stacked: Any, index: int) -> Any:
    """Block `index` of a stacked tree, counted from 0."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _stacked(collection: Mapping[str, Any]) -> dict[str, Any]:
    rest = dict(collection)
    for first in [name for name in collection if name.startswith("layer") and name.endswith("_0")]:
        stage = first.removesuffix("_0")
        names = [f"{stage}_{index}" for index in range(1, len(collection)) if f"{stage}_{index}" in collection]
        if len(names) > 1:
            rest[f"{stage}_{REST}"] = _stack([rest.pop(name) for name in names])
    return rest


def _unstacked(collection: Mapping[str, Any]) -> dict[str, Any]:
    blocks: dict[str, Any] = {}
    for name, tree in collection.items():
        stage, _, place = name.rpartition("_")
        if place != REST:
            blocks[name] = tree
            continue
        for index in range(len(jax.tree.leaves(tree)[0])):
            blocks[f"{stage}_{index + 1}"] = unstack(tree, index)
    return blocks
