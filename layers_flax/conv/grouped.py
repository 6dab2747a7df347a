"""Convolutions of channels in groups that do not see each other (Xie 2017), on the CPU.

XLA's own computes them pixel by pixel, at a hundredth of the processor's speed, and their filter gradient slower still.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from layers_flax.conv.choices import CONVOLUTION, choose, shape_of
from layers_flax.conv.chunks import largest_part
from layers_flax.conv.im2col import Pads, dot_of_im2col, stock_conv

# Channels of a convolution that stands for several groups.
TOGETHER = 32


def stock_or_together(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """XLA's convolution, of groups where the kernel has fewer channels than the images; several together if few."""
    if choose(CONVOLUTION, shape_of(x, kernel, stride, pads)) == "groups together":
        return groups_together(x, kernel, stride, pads)
    return stock_conv(x, kernel, stride, pads, x.shape[-1] // max(1, kernel.shape[2]))


def groups_together(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolutions of several groups each, with a kernel that is zero between them; their maps side by side."""
    inputs, outputs = kernel.shape[2:]
    groups = x.shape[-1] // inputs
    together = largest_part(groups, max(1, TOGETHER // inputs))
    # Row r is of the group r // inputs among those together, and so is column c of c // (outputs / groups).
    rows, columns = np.arange(together * inputs) // inputs, np.arange(outputs) // (outputs // groups) % together
    kernel = jnp.where(rows[:, None] == columns, jnp.tile(kernel, (1, 1, together, 1)), 0)
    parts = groups // together
    pairs = zip(jnp.split(x, parts, -1), jnp.split(kernel, parts, -1), strict=True)
    return jnp.concatenate([stock_conv(x, kernel, stride, pads) for x, kernel in pairs], -1)


def dots_of_groups(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """A dot of patches for each group, all in one; the transpose is the gradient of the kernel."""
    *taps, inputs, outputs = kernel.shape
    groups = x.shape[-1] // inputs
    dots = jax.vmap(partial(dot_of_im2col, stride=stride, pads=pads), 3, 3)
    y = dots(x.reshape(*x.shape[:3], groups, inputs), kernel.reshape(*taps, inputs, groups, outputs // groups))
    return y.reshape(*y.shape[:3], outputs)
