"""Means that round the same in every program."""

import jax
import jax.numpy as jnp


def mean_by_dot(x: jax.Array) -> jax.Array:
    """(batch, values, channels) to (batch, channels), the mean over values, in float32 or wider.

    This is a dot with ones, because XLA would fuse a mean with the operations before it, and sum in another order in
    each network. `deepen` promises equal logits, so equal features must have equal means.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    ones = jnp.ones(x.shape[1], x.dtype)
    return jnp.einsum("bvc,v->bc", x, ones, precision="highest", preferred_element_type=dtype) / x.shape[1]
