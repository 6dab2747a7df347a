"""Code of the user's that a run calls: callbacks and iterables, whose errors reach the user unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

MARK = "_raised_by_the_users_code"


@contextmanager
def users_code() -> Iterator[None]:
    """A context in which code of the user's runs: arrays may be copied, and errors are marked, see `is_users`."""
    try:
        with jax.transfer_guard("allow"):
            yield
    except Exception as error:
        setattr(error, MARK, True)
        raise


def is_users(error: BaseException) -> bool:
    """Tells if an error was raised within `users_code`; no other error takes its place."""
    return getattr(error, MARK, False)
