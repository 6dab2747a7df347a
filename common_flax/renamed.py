"""Names that a package had before."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(package: str, names: Mapping[str, Any]) -> Callable[[str], Any]:
    """A `__getattr__` of a package (PEP 562) that still gives old names, with a DeprecationWarning.

    Args:
        package: its name.
        names: old names, and what they stand for.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(f"{package}.{name} is {names[name].__name__} now", DeprecationWarning, stacklevel=2)
        return names[name]

    return get
