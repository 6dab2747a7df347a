"""The backend that a program is traced for: JAX's default one, or one that is told and need not be attached."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from common_flax.checks import one_of

BACKENDS = ("cpu", "gpu", "tpu")

# JAX keeps what it has traced, and traces again where this value differs.
_told = jax.make_user_context(None)


@contextmanager
def target_backend(name: str) -> Iterator[None]:
    """A context in which programs are traced for the backend `name`, attached or not.

    The layers of this project have formulas of their own for the CPU, and take XLA's on accelerators. Outside of this
    context they ask for JAX's default backend. It changes speed and memory, and numbers only within rounding. It says
    nothing about where a program is compiled or run::

        with layers_flax.target_backend("tpu"):
            lowered = jax.jit(step, in_shardings=on_tpu).lower(state, images, labels)

    Args:
        name: "cpu", "gpu" or "tpu".

    Raises:
        ValueError: the name is none of these.
    """
    one_of("backend", name, BACKENDS)
    with _told(name):
        yield


def backend() -> str:
    """Returns the name of the backend that programs are traced for: that of `target_backend`, or JAX's default."""
    return _told.value or jax.default_backend()
