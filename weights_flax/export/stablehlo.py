"""StableHLO programs of networks: one file with the weights, which JAX runs on CPU, GPU and TPU at any batch size."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from layers_flax import target_backend

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(model: nn.Module, variables: Mapping[str, Any], image_shape: Sequence[int]) -> bytes:
    """Exports the network in evaluation by `jax.export`.

    Args:
        model: any network; it computes in its own `dtype`, but float64 becomes float32.
        variables: {"params", "batch_stats"}, which become constants of the program.
        image_shape: (height, width, channels).

    Returns:
        The serialised function from images (batch, height, width, channels), float32, to logits
        (batch, num_classes), float32; the batch has any size.
    """
    if getattr(model, "dtype", None) is not None and jnp.dtype(model.dtype) == jnp.float64:
        model = model.clone(dtype=jnp.float32)
    variables = jax.tree.map(_at_most_float32, dict(variables))
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)

    @jax.jit
    def logits(images: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply(variables, images, train=False), jnp.float32)

    # One program for all platforms has no formulas for CPUs, whatever it is made on.
    with target_backend("gpu"):
        return bytes(jax.export.export(logits, platforms=PLATFORMS)(images).serialize())


def _at_most_float32(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf
