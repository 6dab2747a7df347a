"""Errors of other libraries in one line."""


def one_line(error: Exception) -> str:
    """The text of an error, or its class where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
