"""What several tests check of a function: its derivatives of every kind against another's."""

import jax
import jax.numpy as jnp
import numpy as np


def random_like(tree, seed):
    """A tree of the same shapes and types with standard normal values."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), tree)


def random_variables(module, x, **options):
    """Of the type of `x`, random everywhere: zeros and ones as initial values would hide mistakes."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, **options))
    variables = random_like(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, x.dtype), shapes), 5)
    return variables | {"batch_stats": jax.tree.map(lambda leaf: 0.5 + leaf**2, variables["batch_stats"])}


def derivatives(function, arguments):
    """Value, gradient, jvp, Hessian-vector product and vmap of `function`, which gives one array, at `arguments`.

    Gradients are those of Σ c·y + Σ y³/3 with a fixed random c, so that the second order is not zero.
    """
    out = jax.eval_shape(function, *arguments)
    weights = random_like(out, 1)
    tangents = random_like(arguments, 2)
    argnums = tuple(range(len(arguments)))

    def scalar(*args):
        y = function(*args)
        return (weights * y + y**3 / 3).sum()

    gradient = jax.grad(scalar, argnums)

    def everything(*args):
        stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), args)
        return {
            "value": function(*args),
            "grad": gradient(*args),
            "jvp": jax.jvp(function, args, tangents)[1],
            "hvp": jax.jvp(gradient, args, tangents)[1],
            "vmap": jax.vmap(function)(*stacked),
            "vmap of grad": jax.vmap(gradient)(*stacked),
        }

    return jax.jit(everything)(*arguments)


def mapped(function, arguments):
    """`function` and its gradient under vmap, over each argument alone and over all of them, one after another."""

    def gradient(*args):
        return jax.grad(lambda *args: (function(*args) ** 3).sum(), tuple(range(len(args))))(*args)

    def over(axes):
        stacked = [jnp.stack([a, 2 * a], 1) if axis == 1 else a for a, axis in zip(arguments, axes, strict=True)]
        return jax.vmap(function, axes)(*stacked), jax.vmap(gradient, axes)(*stacked)

    count = len(arguments)
    each = [tuple(1 if i == j else None for j in range(count)) for i in range(count)]
    return jax.jit(lambda: [over(axes) for axes in [*each, (1,) * count]])()


def assert_close(ours, theirs, tolerance):
    """Every leaf agrees, relative to the largest number in it."""
    ours, theirs = jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs)
    for (path, a), b in zip(ours, theirs, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, path
        error = np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-300)
        assert error <= tolerance, f"{jax.tree_util.keystr(path)}: {error:.2e} > {tolerance:.0e}"
