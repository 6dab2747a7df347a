"""Libraries that only some commands need, each brought by an extra of the distribution; and JAX, for commands."""

import importlib
import os
import re
import sys
from typing import Any

from common_flax.errors import one_line
from common_flax.terminal import complain

DISTRIBUTION = "resnet-densenet-flax"

# XLA logs alarms as errors, "Very slow compile?" and "Constant folding an instruction is taking > 1s", and absl and
# gRPC their own state. Errors themselves are raised in Python, and fatal ones are logged at any level.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE"}


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


def import_jax(name: str) -> None:
    """Imports JAX for the command called `name`; a setting that JAX does not take ends the process with one line.

    JAX reads the variables JAX_* of the environment while it is imported, before any command could mind its errors.
    Its C++ code reads its own while it is loaded, so that their noise must be turned off here too: see `QUIET`.
    """
    if "--verbose" not in sys.argv:
        for name_of_setting, value in QUIET.items():
            os.environ.setdefault(name_of_setting, value)
    try:
        import jax  # noqa: F401
    except ValueError as error:
        variable = re.search(r"jax_\w+", str(error), re.IGNORECASE)
        named = variable[0].upper() if variable else "the variable JAX_… that says so"
        complain(f"{name}: error: JAX does not take a setting of the environment ({one_line(error)}); unset {named}")
        os._exit(2)
