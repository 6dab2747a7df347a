"""What errors of other libraries say, in one line."""


def one_line(error: Exception) -> str:
    """The text of an error, or its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
