"""Blocks of a stage as one loop: a network of a thousand layers compiles in the time of a few blocks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


def roll(blocks: Sequence[Any], x: jax.Array, train: bool, *, update: bool, remat: bool) -> jax.Array:
    """What the blocks give for `x` one after another, as a loop over their stacked variables.

    For the backward pass each block's input alone is kept, and the block is run again there: a loop would have to copy
    all else into arrays of all blocks.

    Args:
        blocks: bound blocks that differ in their variables alone, keep the shape of `x` and draw no random numbers.
        x: (batch, height, width, channels).
        train: as in a call of a block.
        update: write the blocks' new running statistics.
        remat: the blocks are `layers_flax.remat`'s, and see to that themselves.
    """
    block: nn.Module = blocks[0].clone(parent=None, name=None)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[dict(each.variables) for each in blocks])

    def body(x: jax.Array, variables: Any) -> Any:
        return block.apply(variables, x, train, mutable=["batch_stats"] if update else [])

    if not remat:
        body = jax.checkpoint(body, prevent_cse=False)
    x, updates = lax.scan(body, x, stacked)
    for index, each in enumerate(blocks):
        for name, layer in updates.get("batch_stats", {}).items():
            each.put_variable("batch_stats", name, jax.tree.map(lambda leaf, index=index: leaf[index], layer))
    return x
