"""The classifier: a dense layer whose logits are at least float32."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common_flax.checks import check_positive
from layers_flax.parameters.initializers import zeros
from layers_flax.parameters.parameter import parameter, read


class Linear(nn.Module):
    """y = x W + b in float32 or wider, whatever the type of `x`, so that a loss is computed from exact logits.

    Attributes:
        features: width of the output.
        param_dtype: the type of `kernel` (in, features) and `bias` (features,).
        kernel_init: initialiser of the kernel; the bias starts at zero.

    Raises:
        ValueError: features is not positive, or the input has no values.
    """

    features: int
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    def __post_init__(self) -> None:
        check_positive("features", self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, in) to (batch, features), the promotion of input, parameters and float32."""
        if x.shape[-1] == 0:
            raise ValueError(f"the input must have values; given shape {tuple(x.shape)}")
        kernel = parameter(self, "kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        bias = parameter(self, "bias", zeros, (self.features,), self.param_dtype)
        kernel, bias = read(self, x, kernel, bias)
        dtype = jnp.promote_types(jnp.result_type(x, kernel), jnp.float32)
        return jnp.dot(x.astype(dtype), kernel.astype(dtype)) + bias.astype(dtype)
