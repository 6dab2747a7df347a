"""The backend that a command computes on, checked before the command does anything else."""

import jax

from common_flax.errors import one_line
from common_flax.optional import DISTRIBUTION


def check_backend() -> None:
    """Starts JAX's backend, and with it the devices that JAX_PLATFORMS asks for.

    In a run of several processes this must come after they have found each other.

    Raises:
        ValueError: JAX cannot start the backend, as with JAX_PLATFORMS=cuda on a machine that has no GPU.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that it knows CUDA, without a message
        asked = jax.config.values["jax_platforms"]
        reason = one_line(error).removesuffix(" (set JAX_PLATFORMS='' to automatically choose an available backend)")
        why = "" if isinstance(error, AssertionError) else f": {reason}"
        raise ValueError(
            f"JAX cannot start the platform {asked!r} of JAX_PLATFORMS here{why}; without JAX_PLATFORMS JAX takes "
            f"what the machine has; GPUs need pip install '{DISTRIBUTION}[gpu]', TPUs '{DISTRIBUTION}[tpu]'"
        ) from None
