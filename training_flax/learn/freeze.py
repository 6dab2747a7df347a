"""Parameters that training does not change, by patterns of their paths."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from common_flax.checks import one_of


def frozen_leaves(tree: Any, patterns: Sequence[str]) -> Any:
    """Returns nested dicts of bools like `tree`: True if a leaf's path, joined by "/", matches a shell pattern."""
    names = flatten_dict(tree, sep="/")
    return unflatten_dict({name: any(fnmatchcase(name, p) for p in patterns) for name in names}, sep="/")


def check_patterns(params: Any, patterns: Sequence[str]) -> None:
    """Raises ValueError, with the nearest name, if a pattern matches no parameter; or if none is left to train."""
    names = list(flatten_dict(params, sep="/"))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            modules = {name.rsplit("/", depth)[0] + "/*" for name in names for depth in (1, 2)}
            one_of("freeze pattern", pattern, sorted(modules) + names)
    if patterns and all(jax.tree.leaves(frozen_leaves(params, patterns))):
        raise ValueError(f"freeze leaves nothing to train; given {', '.join(map(repr, patterns))}")
