"""The weight distributions of the papers and of torchvision, as JAX initialisers `(key, shape, dtype) -> array`.

Kernels are HWIO or (in, out); a fan counts the receptive field, and for grouped convolutions the group's inputs.

A program that draws all arrays of a network needs a fifth of a second of compilation for each array. Outside of
programs, where the key has a value, arrays are filled on the host, and all shapes share a few programs that draw.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer, variance_scaling

LARGEST = 4**11  # number of values; larger arrays are drawn in their own shape, by a program of their own


def filled_on_host(shape: Sequence[int], value: float, dtype: Any = jnp.float32) -> jax.Array:
    """An array filled with one value, as `jnp.full`, without compiling anything."""
    return jax.device_put(np.full(shape, value, jax.dtypes.canonicalize_dtype(dtype)))


def zeros(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """Zeros, as `jax.nn.initializers.zeros`."""
    return _constant(0, key, shape, dtype, out_sharding)


def ones(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """Ones, as `jax.nn.initializers.ones`."""
    return _constant(1, key, shape, dtype, out_sharding)


def _constant(value: int, key: Any, shape: Sequence[int], dtype: Any, out_sharding: Any) -> jax.Array:
    if isinstance(key, jax.core.Tracer) or out_sharding is not None:
        return jnp.full(shape, value, dtype, out_sharding=out_sharding)
    return filled_on_host(shape, value, dtype)


def _scaled(
    scale: float, mode: Literal["fan_in", "fan_out"], distribution: Literal["normal", "uniform"]
) -> Initializer:
    """`variance_scaling`, equal up to the rounding of a factor."""
    in_shape = variance_scaling(scale, mode, distribution)
    samples: dict[str, Callable[..., jax.Array]] = {
        "normal": jax.random.normal,
        "uniform": partial(jax.random.uniform, minval=-1.0, maxval=1.0),
    }
    deviation = {"normal": 1.0, "uniform": 3.0**-0.5}[distribution]  # of a sample

    def initializer(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        count = int(prod(shape))  # of NumPy's integers too
        traced = isinstance(key, jax.core.Tracer) or out_sharding is not None
        if traced or not 0 < count <= LARGEST or not _draws_by_index(key):
            return in_shape(key, shape, dtype, out_sharding=out_sharding)
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        more = 4 ** max(6, (count - 1).bit_length() + 1 >> 1)  # the next power of four: six shapes in all
        values = np.asarray(_sample(samples[distribution], more, dtype, key))[:count].reshape(shape)
        fan = prod(shape[:-2]) * shape[-2 if mode == "fan_in" else -1]
        return jax.device_put(values * np.asarray((scale / fan) ** 0.5 / deviation, dtype))

    return initializer


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sample(sample: Callable[..., jax.Array], count: int, dtype: Any, key: jax.Array) -> jax.Array:
    return sample(key, (count,), dtype)


def _draws_by_index(key: jax.Array) -> bool:
    """Tells if the i-th value is the same for any shape, so that a longer array holds it too."""
    config: Any = jax.config  # its attributes know of contexts, its values do not
    return str(jax.random.key_impl(key)) == "threefry2x32" and config.jax_threefry_partitionable


he_normal_fan_in = _scaled(2.0, "fan_in", "normal")
"""Normal, variance 2 / fan_in (He et al., Delving Deep into Rectifiers, arXiv:1502.01852, equation 10)."""

he_normal_fan_out = _scaled(2.0, "fan_out", "normal")
"""Normal, variance 2 / fan_out (the same paper, equation 14): torchvision's choice for ResNet and VGG."""

torch_linear = _scaled(1.0 / 3.0, "fan_in", "uniform")
"""Uniform on ±1/sqrt(fan_in): the default of PyTorch's Linear."""
