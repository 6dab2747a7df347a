"""Names of a user's own functions and objects, by which a run knows them again."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import optax


def qualified_name(given: object) -> str:
    """Returns module and name of a function or class, or those of an object's class; of a partial its function's."""
    while isinstance(given, partial):
        given = given.func
    named = given if hasattr(given, "__qualname__") else type(given)
    return f"{getattr(named, '__module__', None) or '?'}.{getattr(named, '__qualname__')}"  # noqa: B009


def optimizer_name(optimizer: optax.GradientTransformation, params: Any) -> str:
    """Names an optimizer by its state: the types in it, and a hash of the names, shapes and types of its arrays.

    The numbers of an optimizer, such as its learning rate, are in functions that cannot be looked into.

    Args:
        optimizer: any of Optax's.
        params: the parameters, or their shapes.
    """
    state = jax.eval_shape(optimizer.init, params)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    text = "\n".join(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}" for path, leaf in leaves)
    kinds = list(dict.fromkeys(_types(state))) or ["no state"]
    return f"{', '.join(kinds)} ({hashlib.sha256(text.encode()).hexdigest()[:16]})"


def _types(state: Any) -> Iterator[str]:
    """Yields the names of the states that have arrays, in order."""
    if isinstance(state, tuple | list):
        if hasattr(state, "_fields") and jax.tree.leaves(state):
            yield type(state).__name__
        for part in state:
            yield from _types(part)
    elif isinstance(state, dict):
        for part in state.values():
            yield from _types(part)
