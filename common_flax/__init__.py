"""Tools that every package needs and no paper mentions: checks, files, errors, command lines, colours."""

from common_flax.optional import import_jax
from common_flax.signals import mind_imports

__version__ = "0.1.0"

__all__ = ["__version__"]

if _command := mind_imports():
    import_jax(_command)
