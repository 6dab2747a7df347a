"""What both families need to put a network into a deeper one of its kind."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import Any

import jax
from flax import linen as nn


def check_deeper(model: nn.Module, deeper: nn.Module, sizes: str, may_differ: Collection[str]) -> None:
    """Raises ValueError, naming what differs, unless `deeper` is `model` with nowhere fewer blocks.

    Args:
        model, deeper: networks of one family.
        sizes: the option that holds the number of blocks, stage by stage.
        may_differ: other options that change neither the variables nor what is computed of them.
    """
    if getattr(model, "folded", False) or getattr(deeper, "folded", False):
        raise ValueError("a folded network cannot be deepened; deepen the one it was folded from, and fold it again")
    if type(model) is not type(deeper):
        raise ValueError(f"a {type(model).__name__} goes into a deeper one; given a {type(deeper).__name__}")
    for name in (field.name for field in fields(model)):
        old, new = getattr(model, name), getattr(deeper, name)
        if name not in {sizes, "parent", "name", *may_differ} and old != new:
            old, new = (getattr(value, "__name__", repr(value)) for value in (old, new))
            raise ValueError(f"{name} must be the same in the deeper network: {old}; given {new}")
    old, new = tuple(getattr(model, sizes)), tuple(getattr(deeper, sizes))
    if len(old) != len(new):
        raise ValueError(f"{sizes} must have as many stages in the deeper network: {len(old)}; given {len(new)}")
    if any(few > many for few, many in zip(old, new, strict=True)):
        raise ValueError(f"{sizes} must nowhere be smaller in the deeper network than {old}; given {new}")
    if any(few == 0 < many for few, many in zip(old, new, strict=True)):
        raise ValueError(f"{sizes} must be at least 1: the first block of a stage changes its shape; given {old}")


def carry_over(
    old: Any,
    fresh: Any,
    is_new: Callable[[Sequence[str]], bool],
    put: Callable[[Sequence[str], Any, Any], Any],
) -> Any:
    """`fresh` with the leaves of `old` in it, each where its path says.

    Args:
        old: variables, or a state of an optimiser that holds trees like them, of a network.
        fresh: the same of the deeper network.
        is_new: names along a path → whether the leaf is of a part that the deeper network alone has.
        put: (names, old leaf, fresh leaf) → the fresh leaf with the old one in it, of the fresh one's shape, or of
            another where the old one does not fit.

    Raises:
        ValueError: a leaf is missing in `old`, unknown or misshapen.
    """
    leaves = {_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}
    unused = set(leaves)

    def carried(path: Any, leaf: Any) -> Any:
        names = _names(path)
        if is_new(names):
            return leaf
        if names not in leaves:
            raise ValueError(f"{'/'.join(names)} is missing in what is to be deepened")
        unused.discard(names)
        found = put(names, leaves[names], leaf)
        if found.shape != leaf.shape:
            raise ValueError(f"{'/'.join(names)} of shape {leaves[names].shape} does not fit into shape {leaf.shape}")
        return found

    deepened = jax.tree_util.tree_map_with_path(carried, fresh)
    if unused:
        raise ValueError(f"{'/'.join(min(unused))} is in what is to be deepened, but not in the deeper network")
    return deepened


def _names(path: Any) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
