"""StableHLO programs of networks: one file with the weights, which JAX runs on CPU, GPU and TPU at any batch size."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from layers_flax import target_backend
from layers_flax.nn.normalise import normalise
from weights_flax.export.metadata import ExportCard

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(model: nn.Module, variables: Mapping[str, Any], card: ExportCard) -> bytes:
    """Exports the network in evaluation by `jax.export`.

    Args:
        model: any network; it computes in its own `dtype`, but float64 becomes float32.
        variables: {"params", "batch_stats"}, which become constants of the program.
        card: its `image_shape`; and `pixels`, from which normalisation and softmax, or sigmoid, follow.

    Returns:
        The serialised function from images (batch, height, width, channels), of `card.dtype`, to logits or
        probabilities (batch, num_classes), float32; the batch has any size.
    """
    if getattr(model, "dtype", None) is not None and jnp.dtype(model.dtype) == jnp.float64:
        model = model.clone(dtype=jnp.float32)
    variables = jax.tree.map(_at_most_float32, dict(variables))
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *card.image_shape), card.dtype)

    @jax.jit
    def program(images: jax.Array) -> jax.Array:
        if card.mean is not None and card.std is not None and card.pixels == "0..255":
            images = normalise(images, card.mean, card.std)
        logits = jnp.asarray(model.apply(variables, images, train=False), jnp.float32)
        probabilities = jax.nn.sigmoid if card.multi_label else jax.nn.softmax
        return probabilities(logits) if card.output == "probabilities" else logits

    # One program for all platforms has no formulas for CPUs, whatever it is made on.
    with target_backend("gpu"):
        return bytes(jax.export.export(program, platforms=PLATFORMS)(images).serialize())


def _at_most_float32(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf
