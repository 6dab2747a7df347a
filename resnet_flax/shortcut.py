"""Shortcuts, to which blocks add their residuals: identity, zero padding, projection, or nothing."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from layers_flax import subsample

SHORTCUTS = ("A", "B", "C", None)


def keeps_shape(x: jax.Array, stride: int, features: int) -> bool:
    """Tells if a block with this stride and these output channels keeps the shape of its input."""
    return stride == 1 and x.shape[-1] == features


def shortcut(x: jax.Array, kind: str | None, stride: int, features: int, project: Callable) -> jax.Array | float:
    """The shortcut of a residual block (He 2015, section 3.3, and options A, B, C of section 4.1).

    Args:
        x: the block's input, (batch, height, width, channels).
        kind: "A", zero padding where the channels grow; "B", projection where the shape changes; "C", projection
            everywhere; None, nothing at all: the plain network.
        stride: of the block.
        features: channels out.
        project: the projection.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), features), or 0 for the plain network.

    Raises:
        ValueError: zero padding cannot take the channels down.
    """
    if kind is None:
        return 0.0
    if kind == "C" or (kind == "B" and not keeps_shape(x, stride, features)):
        return project(x)
    new = features - x.shape[-1]
    if new < 0:
        raise ValueError(f"shortcut 'A' cannot take {x.shape[-1]} channels down to {features}; use 'B'")
    x = subsample(x, stride)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2))) if new else x
