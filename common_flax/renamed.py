"""Old names, still taken with a DeprecationWarning."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def renamed(package: str, names: Mapping[str, Any]) -> Callable[[str], Any]:
    """Makes a `__getattr__` of a package (PEP 562) that still returns old names, with a DeprecationWarning.

    Args:
        package: its name.
        names: old names to their objects.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(f"{package}.{name} is {names[name].__name__} now", DeprecationWarning, stacklevel=2)
        return names[name]

    return get


def renamed_keyword(function: Callable[..., T], **names: str) -> Callable[..., T]:
    """Makes `function` take old names of keywords too, with a DeprecationWarning.

    Args:
        function: takes the new names.
        **names: old name = new name.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> T:
        for old, new in names.items():
            if old in kwargs:
                warnings.warn(f"{old}= is {new}= now", DeprecationWarning, stacklevel=2)
                if new in kwargs:
                    raise TypeError(f"{function.__qualname__} got both {new} and {old}, its old name")
                kwargs[new] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call
