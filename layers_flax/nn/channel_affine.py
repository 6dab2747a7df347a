"""BatchNorm in a network for inference: part of the convolution before it, or a scale and a shift."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from layers_flax.parameters.initializers import ones, zeros
from layers_flax.parameters.parameter import parameter, read


class ScaleShift(nn.Module):
    """y = x · scale + bias, channel by channel: a BatchNorm whose statistics stay as they are.

    Attributes:
        dtype: type of the output; None is the promotion of input and parameters.
        param_dtype: type of scale and bias.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, moments: None = None) -> jax.Array:
        """(..., channels) to the same shape; called as a `BatchNorm` is, whose `train` and `moments` are not used."""
        channels = (x.shape[-1],)
        scale = parameter(self, "scale", ones, channels, self.param_dtype)
        bias = parameter(self, "bias", zeros, channels, self.param_dtype)
        scale, bias = read(self, x, scale, bias)
        out = jnp.result_type(x, scale, bias) if self.dtype is None else self.dtype
        return (x * scale + bias).astype(out)


def conv_norm(
    conv: Callable[..., Any],
    norm: Callable[..., Any],
    folded: bool,
    *args: Any,
    scale_init: nn.initializers.Initializer = ones,
    **kwargs: Any,
) -> tuple[Any, Callable[..., jax.Array]]:
    """A convolution and the BatchNorm behind it.

    Args:
        conv, norm: the makers of the two, with their types bound.
        folded: the BatchNorm is part of the convolution, which then has a bias and nothing behind it.
        args, kwargs: arguments of the convolution.
        scale_init: initialiser of the BatchNorm's scale.
    """
    if folded:
        return conv(*args, use_bias=True, **kwargs), _nothing
    return conv(*args, **kwargs), norm(scale_init=scale_init)


def _nothing(x: jax.Array, train: bool = False, moments: Any = None) -> jax.Array:
    """A BatchNorm that has become part of the convolution before it."""
    return x


def check_inference(folded: bool, train: bool) -> None:
    """Raises ValueError if a folded network is called with train=True."""
    if folded and train:
        raise ValueError(
            "train=True: a folded network has no BatchNorm left to train; train the one it was folded from"
        )
