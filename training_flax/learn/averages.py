"""Moving averages of weights, whose decay rises in a warm-up."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def averaging_rate(number: jax.Array, decay: float, dtype: Any = jnp.float32) -> jax.Array:
    """Returns the share of the newest weights in their moving average: 1 - `decay`, or more in the first updates.

    The share of update `number` is number^(-2/3), at least 1 - decay, as in timm's `ModelEmaV3(use_warmup=True)`: the
    average begins as a copy, and then spans about number^(2/3) updates. With a constant share, the initial weights
    would have decay^number of the average, nearly all of it in a short run.

    Args:
        number: () integer from 1: the number of this update. Skipped steps do not count.
        decay: the decay after the warm-up, from 0 to under 1.
        dtype: the type of the result.
    """
    return jnp.maximum(number.astype(dtype) ** (-2 / 3), 1 - decay)


def averaged(new: Any, old: Any, rate: Any) -> Any:
    """Moves the average `old` towards `new` by the share `rate`; each leaf keeps its type."""
    average = optax.incremental_update(new, old, rate)
    return jax.tree.map(lambda leaf, before: leaf.astype(before.dtype), average, old)
