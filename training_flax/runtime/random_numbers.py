"""The kind of random numbers of a run, which JAX's configuration chooses where a run begins."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax


class RandomNumbers(NamedTuple):
    """Settings of JAX that change random numbers.

    Attributes:
        impl: name of the generator (JAX_DEFAULT_PRNG_IMPL), "threefry2x32" by default.
        partitionable: the form of threefry that is drawn device by device (JAX_THREEFRY_PARTITIONABLE).
    """

    impl: str
    partitionable: bool


def current() -> RandomNumbers:
    """Returns JAX's settings."""
    config: Any = jax.config  # its attributes know of contexts, its values do not
    return RandomNumbers(config.jax_default_prng_impl, config.jax_threefry_partitionable)


def by_shape(shape: tuple[int, ...]) -> RandomNumbers:
    """Returns JAX's settings, with a generator whose keys have this shape: JAX's own one, threefry or rbg."""
    now = current()
    for impl in (now.impl, "threefry2x32", "rbg"):
        if jax.eval_shape(lambda impl=impl: jax.random.key_data(jax.random.key(0, impl=impl))).shape == shape:
            return now._replace(impl=impl)
    return now


@contextmanager
def drawn_by(kind: RandomNumbers) -> Iterator[None]:
    """A context in which keys are made, and numbers are drawn, as `kind` says.

    Raises:
        ValueError: JAX does not know the generator here.
    """
    try:
        impl = jax.default_prng_impl(kind.impl)
    except ValueError:
        raise ValueError(f"the run's random numbers are of {kind.impl!r}, which this JAX does not have") from None
    with impl, jax.threefry_partitionable(kind.partitionable):
        yield
