"""Parameters that training leaves as they are, by patterns of their paths."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

from common_flax.checks import one_of


def frozen_leaves(tree: Any, patterns: Sequence[str]) -> Any:
    """True for the leaves whose path, joined by "/", matches one of the shell patterns; of any tree of dicts."""

    def matches(path: Any, leaf: Any) -> bool:
        name = path_name(path)
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(matches, tree)


def path_name(path: Any) -> str:
    """layer1_0/conv1/kernel: a leaf's place in a tree of dicts."""
    return "/".join(str(key.key) for key in path)


def check_patterns(params: Any, patterns: Sequence[str]) -> None:
    """Raises ValueError for a pattern that matches no parameter, and names the nearest; or if none is left to train."""
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            modules = {name.rsplit("/", depth)[0] + "/*" for name in names for depth in (1, 2)}
            one_of("freeze pattern", pattern, sorted(modules) + names)
    if patterns and all(jax.tree.leaves(frozen_leaves(params, patterns))):
        raise ValueError(f"freeze leaves nothing to train; given {', '.join(map(repr, patterns))}")
