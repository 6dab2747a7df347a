"""Libraries that only some commands need, each brought by an extra of the distribution."""

import importlib
from typing import Any

DISTRIBUTION = "resnet-densenet-flax"


def library(name: str, *, extra: str, purpose: str) -> Any:
    """Imports the module `name`.

    Args:
        name: the module, as `import` takes it.
        extra: the extra that installs it.
        purpose: the part of the project that needs the module; the first words of the message.

    Raises:
        ValueError: the module, or one that it imports, is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise not_installed(error, extra=extra, purpose=purpose) from None


def not_installed(error: ImportError, *, extra: str, purpose: str) -> ValueError:
    """Turns an ImportError into the one line that names the extra to install."""
    return ValueError(f"{purpose} needs {error.name or error}: pip install '{DISTRIBUTION}[{extra}]'")
