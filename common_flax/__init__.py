"""Tools that every package needs and no paper mentions: checks, files, errors, command lines, colours."""

__version__ = "0.1.0"

__all__ = ["__version__"]
