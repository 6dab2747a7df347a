"""Networks' variables with random values, and whether two trees of them are the same."""

import jax
import numpy as np

from layers_flax import variables_by_shape


def drawn(model, channels=3):
    """Variables of the model's names, shapes and types, with values from 0 to 1."""
    shapes = dict(variables_by_shape(model, (32, 32, channels)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32).astype(leaf.dtype), shapes)


def check_same(ours, theirs):
    """The same leaves, bit for bit, types included."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    leaves = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True)
    for (path, value), other in leaves:
        value, other = np.asarray(value), np.asarray(other)
        assert value.dtype == other.dtype, path
        assert value.tobytes() == other.tobytes(), path
