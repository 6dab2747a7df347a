"""The backend that a command computes on, checked before the command does anything else."""

import jax

from common_flax.errors import one_line
from common_flax.optional import DISTRIBUTION


def check_backend() -> None:
    """Starts JAX's backend, and with it the devices that JAX_PLATFORMS asks for.

    A run of several processes must connect them (`jax.distributed.initialize`) before this call.

    Raises:
        ValueError: JAX cannot start the backend, as with JAX_PLATFORMS=cuda on a machine that has no GPU.
    """
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
