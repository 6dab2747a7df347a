"""Tools with which a family puts a network into a deeper one."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import Any

import jax
from flax import linen as nn


def check_deeper(model: nn.Module, deeper: nn.Module, sizes: str, may_differ: Collection[str]) -> None:
    """Raises ValueError unless `deeper` is `model` with at least as many blocks in each stage; names the difference.

    Args:
        model, deeper: networks of one family.
        sizes: the option that holds the number of blocks, stage by stage.
        may_differ: other options that change neither the variables nor the logits.
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
    """Puts the leaves of `old` into `fresh`, each at the place that its path names.

    For an optimizer's state, `fresh` is `optimizer.init(deepened["params"])`: old parameters keep their momenta, new
    ones start at zero, and counters and schedules go on. Under Adam, whose count goes on, the second moments of new
    parameters are still small: their first steps are up to (1 - b1) / sqrt(1 - b2) times the learning rate.

    Args:
        old: a tree of a network that holds trees like its variables: variables, a state of Optax, an average.
        fresh: the same tree of the deeper network.
        is_new: names along a path → True if only the deeper network has this leaf.
        put: (names, old leaf, fresh leaf) → the fresh leaf with the old one in it, in the fresh leaf's shape; another
            shape tells that the old leaf does not fit.

    Returns:
        A tree like `fresh`.

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
            raise ValueError(f"{'/'.join(names)} is missing in the tree to deepen")
        unused.discard(names)
        found = put(names, leaves[names], leaf)
        if found.shape != leaf.shape:
            raise ValueError(f"{'/'.join(names)} of shape {leaves[names].shape} does not fit into shape {leaf.shape}")
        return found

    deepened = jax.tree_util.tree_map_with_path(carried, fresh)
    if unused:
        raise ValueError(f"{'/'.join(min(unused))} is in the tree to deepen, but not in the deeper network")
    return deepened


def _names(path: Any) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
