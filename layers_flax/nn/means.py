"""Means that round the same in every program."""

import jax
import jax.numpy as jnp


def mean_by_dot(x: jax.Array) -> jax.Array:
    """(batch, values, channels) to (batch, channels), the mean over values, in float32 or wider.

    A dot with ones, because XLA would fuse a mean with what comes before, and take its sum in another order in each
    network: where `deepen` promises the same logits, the same features must give the same mean.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    ones = jnp.ones(x.shape[1], x.dtype)
    return jnp.einsum("bvc,v->bc", x, ones, precision="highest", preferred_element_type=dtype) / x.shape[1]
