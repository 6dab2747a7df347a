"""A network for inference, run on a few images at a time, whose feature maps then stay in the processor's cache."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from flax import linen as nn
from jax import lax

from layers_flax.autodiff.backend import backend

PIXELS_AT_ONCE = 4 * 224**2


def folded_logits(network: nn.Module, images: jax.Array) -> jax.Array:
    """Calls a folded network, chunk by chunk where that is faster, or else by its method `at_once`.

    During `init` and under `capture_intermediates` the network runs at once.
    """
    logits = None
    if images.ndim == 4 and not network.is_initializing() and not network.is_mutable_collection("intermediates"):
        run = partial(network.clone(parent=None).apply, method="at_once")
        logits = in_chunks(run, network.variables, images)
    return network.at_once(images) if logits is None else logits


def in_chunks(network: Callable[..., Any], variables: Mapping[str, Any], images: jax.Array) -> jax.Array | None:
    """Computes `network(variables, images)` chunk by chunk; None where running at once is as fast.

    Chunks are for one CPU device. A chunk is the largest part that divides the batch and has at most `PIXELS_AT_ONCE`,
    four images of 224×224. Derivatives are those of the network at once: inside a loop XLA's CPU backend does not
    recognise the gradient of a convolution, and takes many times as long for it.

    Args:
        network: a function that treats each image by itself, as in evaluation.
        variables: the network's.
        images: (batch, height, width, channels).
    """
    batch, *shape = images.shape
    if backend() != "cpu" or jax.device_count() > 1 or not all(isinstance(n, int) for n in images.shape):
        return None
    most = max(1, PIXELS_AT_ONCE // (shape[0] * shape[1]))
    chunk = largest_part(batch, most)
    if chunk == batch:
        return None

    @jax.custom_jvp
    def run(variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        logits = lax.map(lambda part: network(variables, part), images.reshape(-1, chunk, *shape))
        return logits.reshape(batch, -1)

    run.defjvp(lambda primals, tangents: jax.jvp(network, primals, tangents))
    return run(variables, images)


def largest_part(batch: int, most: int) -> int:
    """The largest number of images, `most` or fewer and at least one, that divides the batch; all of an empty one."""
    return next((n for n in range(min(most, batch), 0, -1) if batch % n == 0), batch)
