"""What every package of the project needs and no paper mentions."""

__version__ = "0.1.0"

__all__ = ["__version__"]
