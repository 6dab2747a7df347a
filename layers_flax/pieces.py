"""A network for inference, run on a few images at a time, whose feature maps then stay in the processor's cache."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax

PIXELS_AT_ONCE = 2 * 224**2


def in_pieces(network: Callable[..., Any], variables: Mapping[str, Any], images: jax.Array) -> jax.Array | None:
    """`network(variables, images)` piece by piece; None where that is not faster and it should run at once.

    On one CPU device; a piece is the largest part that divides the batch and has `PIXELS_AT_ONCE` or fewer, two
    images of 224×224. It is as differentiable as the network, by the network at once: XLA's CPU backend does not
    recognise the gradient of a convolution inside a loop, and takes many times as long for it.

    Args:
        network: of no more than each image by itself, as in evaluation.
        variables: its own.
        images: (batch, height, width, channels).
    """
    batch, *shape = images.shape
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or not all(isinstance(n, int) for n in images.shape):
        return None
    most = max(1, PIXELS_AT_ONCE // (shape[0] * shape[1]))
    piece = next(n for n in range(min(most, batch), 0, -1) if batch % n == 0)
    if piece == batch:
        return None

    @jax.custom_jvp
    def run(variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        logits = lax.map(lambda part: network(variables, part), images.reshape(-1, piece, *shape))
        return logits.reshape(batch, -1)

    run.defjvp(lambda primals, tangents: jax.jvp(network, primals, tangents))
    return run(variables, images)
