"""Checks of arguments: each raises a ValueError of one line that names the value and the allowed ones."""

import difflib
from collections.abc import Iterable


def one_of(what: str, value: object, allowed: Iterable[object]) -> None:
    """Raises ValueError unless `value` is in `allowed`, naming the nearest match, or all of a short list."""
    allowed = list(allowed)
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    else:
        shown = [repr(a) for a in allowed[:12]]
        hint = "allowed: " + ", ".join(shown) + (", …" if len(allowed) > 12 else "")
    raise ValueError(f"unknown {what} {value!r}; {hint}")


def check_images(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `shape` is that of a batch of images, (batch, height, width, channels)."""
    if len(shape) != 4:
        raise ValueError(
            f"images must have rank 4, (batch, height, width, channels); "
            f"given shape {tuple(shape)} of rank {len(shape)}"
        )
    if shape[1] == 3 and shape[3] > 4:
        raise ValueError(
            f"images must be (batch, height, width, channels); given shape {tuple(shape)}, which looks like PyTorch's "
            "(batch, channels, height, width): use images.transpose(0, 2, 3, 1)"
        )


def check_positive(what: str, value: int) -> None:
    """Raises ValueError unless `value` is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} must be a positive integer; given {value!r}")


def check_rate(what: str, value: float) -> None:
    """Raises ValueError unless 0 <= `value` < 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{what} must be at least 0 and under 1; given {value!r}")
