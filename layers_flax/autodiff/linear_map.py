"""Linear maps with a transpose of our own, and derivatives that are recomputed when the backward pass needs them.

`jax.checkpoint` makes XLA recompute a part of the forward pass in the backward pass, behind an optimisation barrier.
XLA's CPU backend drops these barriers, sees that both computations are equal, and keeps the first result. Here the
second computation waits for the cotangent through an operation that no compiler can see through.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from layers_flax.autodiff.backend import backend


def linear_map(
    fun: Callable[[Any, Any], Any], transpose: Callable[[Any, Any], Any], residuals: Any, linear: Any
) -> Any:
    """Computes `fun(residuals, linear)`, which is linear in `linear`, with a transpose of its own.

    Like `jax.custom_derivatives.linear_call`, but differentiable again, and with a rule for `jax.vmap`. The derivative
    with respect to `residuals` is that of `fun`.

    Args:
        fun: of two trees to a tree of arrays; it closes over no arrays.
        transpose: of `residuals` and the cotangents of `fun`'s output to those of `linear`.
        residuals: a tree of arrays.
        linear: a tree of arrays.
    """
    known, known_tree = jax.tree.flatten(residuals)
    unknown, unknown_tree = jax.tree.flatten(linear)

    def flat(*args: Any) -> Any:
        given = jax.tree.unflatten(known_tree, args[: len(known)])
        return fun(given, jax.tree.unflatten(unknown_tree, args[len(known) :]))

    jaxpr, out = jax.make_jaxpr(flat, return_shape=True)(*known, *unknown)
    out_tree = jax.tree.structure(out)

    def transposed(*args: Any) -> Sequence[jax.Array]:
        given = jax.tree.unflatten(known_tree, args[: len(known)])
        return jax.tree.leaves(transpose(given, jax.tree.unflatten(out_tree, args[len(known) :])))

    outs = _linear_p.bind(*known, *unknown, jaxpr=jaxpr, transpose=transposed, residuals=len(known))
    return jax.tree.unflatten(out_tree, outs)


def after(tree: Any, awaited: jax.Array) -> Any:
    """Returns the arrays of `tree`, so that a computation with them starts, and stays separate, after `awaited`."""
    if backend() != "cpu" or is_spread(awaited):
        return lax.optimization_barrier((tree, awaited))[0]
    bits = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[awaited.dtype.itemsize]
    # This is true for any number. XLA does not know it; LLVM, which runs last, does.
    true = (lax.bitcast_convert_type(awaited[(0,) * awaited.ndim], bits) | 1) != 0
    return jax.tree.map(lambda x: jnp.where(true, x, jnp.zeros((), x.dtype)), tree)


def is_spread(x: jax.Array) -> bool:
    """Tells if the type spreads an axis over several devices (a mesh with explicit axes)."""
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)


_linear_p = Primitive("linear_map")
_linear_p.multiple_results = True


@_linear_p.def_impl
def _run(*args: Any, jaxpr: ClosedJaxpr, **_: Any) -> Sequence[jax.Array]:
    return jaxpr_as_fun(jaxpr)(*args)


@_linear_p.def_abstract_eval
def _shapes(*_: Any, jaxpr: ClosedJaxpr, **__: Any) -> Sequence[Any]:
    return jaxpr.out_avals


mlir.register_lowering(_linear_p, mlir.lower_fun(_run, multiple_results=True))


def _jvp(primals: Any, tangents: Any, *, residuals: int, **params: Any) -> Any:
    bind = _linear_p.bind
    outs = bind(*primals, residuals=residuals, **params)
    fixed = all(isinstance(tangent, ad.Zero) for tangent in tangents[:residuals])
    tangents = [ad.instantiate_zeros(tangent) for tangent in tangents]
    if fixed:
        return outs, bind(*primals[:residuals], *tangents[residuals:], residuals=residuals, **params)
    return outs, jax.jvp(jaxpr_as_fun(params["jaxpr"]), tuple(primals), tuple(tangents))[1]


ad.primitive_jvps[_linear_p] = _jvp


def _transpose(cotangents: Any, *args: Any, transpose: Any, residuals: int, **_: Any) -> Sequence[Any]:
    cotangents = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    found = transpose(*args[:residuals], *cotangents)
    asked = [ad.is_undefined_primal(x) for x in args[residuals:]]
    return [None] * residuals + [x if wanted else None for x, wanted in zip(found, asked, strict=True)]


ad.primitive_transposes[_linear_p] = _transpose


def _batch(axis_data: Any, args: Any, axes: Any, *, jaxpr: ClosedJaxpr, transpose: Any, residuals: int) -> Any:
    # JAX asks for this rule even where nothing is mapped, as for the values beside a Jacobian by columns.
    takes_means = any(getattr(effect, "name", None) == axis_data.name for effect in jaxpr.effects)
    if not takes_means and all(axis is None for axis in axes):
        bind = partial(_linear_p.bind, jaxpr=jaxpr, transpose=transpose, residuals=residuals)
        return bind(*args), [None] * len(jaxpr.out_avals)
    size = axis_data.size
    # The function may take means over the axis by its name, as BatchNorm does.
    vmap = partial(jax.vmap, axis_size=size, axis_name=axis_data.name)
    args = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(args, axes, strict=True)]
    known = [None if axis is None else 0 for axis in axes[:residuals]]
    # Arrays that all members share are repeated: the transpose of repeating adds the members' cotangents.
    unknown = [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else x
        for x, axis in zip(args[residuals:], axes[residuals:], strict=True)
    ]
    args = [*args[:residuals], *unknown]
    batched = jax.make_jaxpr(vmap(jaxpr_as_fun(jaxpr), (*known, *[0] * len(unknown))))(*args)
    outs = [0] * len(batched.out_avals)
    transpose = vmap(transpose, (*known, *outs))
    return _linear_p.bind(*args, jaxpr=batched, transpose=transpose, residuals=residuals), outs


batching.fancy_primitive_batchers[_linear_p] = _batch
