"""The backend that a command computes on, checked before the command does anything else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from common_flax.errors import one_line
from common_flax.optional import DISTRIBUTION

# Settings that forbid what this project's programs do on purpose; they find faults in other programs.
USUAL = {
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_transfer_guard": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
}
COMPILED = ("jax_disable_jit", "jax_no_tracing", "jax_no_execution")  # settings without which programs are compiled


def check_settings() -> None:
    """Raises ValueError, which names the setting, if JAX is told to compile or to run no programs."""
    for name in COMPILED:
        if getattr(jax.config, name):
            raise ValueError(f"{name.upper()} is set, and this project runs compiled programs alone; unset it")


@contextmanager
def usual_settings(x64: bool = False) -> Iterator[None]:
    """A context in which the settings of `USUAL` have their usual values, in this thread.

    Args:
        x64: the types of 64 bits are those of this context (JAX_ENABLE_X64); without it numbers are those of 32 bits,
            whatever the user's own programs compute with.

    Raises:
        ValueError: see `check_settings`.
    """
    check_settings()
    with (
        jax.enable_x64(x64),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.transfer_guard("allow"),
    ):
        yield


def computes_in_64_bits(dtype: Any, variables: Any) -> bool:
    """Tells if a network of the compute type `dtype`, or one of its variables, has 64 bits, and JAX has them here."""
    config: Any = jax.config  # its attributes know of contexts, its values do not
    types = [dtype, *(getattr(leaf, "dtype", None) for leaf in jax.tree.leaves(variables))]
    return config.jax_enable_x64 and any(each is not None and np.dtype(each) == np.float64 for each in types)


def check_backend(x64: bool = False) -> None:
    """Starts JAX's backend, and with it the devices that JAX_PLATFORMS asks for.

    A run of several processes must connect them (`jax.distributed.initialize`) before this call.

    The settings of `USUAL` get their usual values for the whole process, since they are about programs of the user's,
    and so do types of 64 bits.

    Args:
        x64: the command computes with 64 bits.

    Raises:
        ValueError: JAX cannot start the backend, as with JAX_PLATFORMS=cuda on a machine that has no GPU; or a setting
            forbids compiled programs, see `check_settings`.
    """
    check_settings()
    for name, value in (USUAL | {"jax_enable_x64": x64}).items():
        jax.config.update(name, value)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # without JAX's plugin for CUDA, JAX asserts without a message
        reason = f": {one_line(error).partition(' (set JAX_PLATFORMS')[0]}" if str(error) else ""
        for variable in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME"):
            if asked := jax.config.values[variable.lower()]:
                raise ValueError(
                    f"{variable} asks for {asked!r}, which JAX cannot start here{reason}; unset it to take what the "
                    f"machine has, or pip install '{DISTRIBUTION}[gpu]' for GPUs, '{DISTRIBUTION}[tpu]' for TPUs"
                ) from None
        raise ValueError(f"JAX cannot start{reason}") from None
