"""Arrays that a program computes once, and keeps until they have been read."""

import jax
import jax.numpy as jnp
from jax import lax


def once(x: jax.Array) -> jax.Array:
    """`x`, which XLA's CPU backend is not to compute anew in each operation that reads it.

    It takes sums and activations for too cheap to keep. In a residual network, where each block adds to what the block
    before gave, every block would begin with the sum of all those before it; in a dense one the gradient of each
    layer's features would be summed of what all later layers gave. The gradient of `x` is computed once as well.
    Programs that are compiled with `training_flax.compiler_options` heed it. Without, on other backends, and in
    exported programs, whose number of images is a symbol, nothing changes.
    """
    known = all(isinstance(size, int) for size in jnp.shape(x))
    return lax.optimization_barrier(x) if known and jax.default_backend() == "cpu" else x
