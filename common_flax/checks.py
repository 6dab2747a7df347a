"""Checks of arguments: each raises a ValueError of one line that names the value and the allowed ones."""

import difflib
from collections.abc import Iterable
from numbers import Integral, Real

MOST_PIXELS = 2**24  # of an image that a network sees, 4096×4096


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
    if shape[3] > 4 and (shape[1] == 3 or shape[1] == 1 < shape[2] == shape[3]):
        raise ValueError(
            f"images must be (batch, height, width, channels); given shape {tuple(shape)}, which looks like PyTorch's "
            "(batch, channels, height, width): use images.transpose(0, 2, 3, 1)"
        )


def check_positive(what: str, value: int) -> None:
    """Raises ValueError unless `value` is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{what} must be a positive integer; given {value!r}")


def check_pixels(what: str, height: int, width: int) -> None:
    """Raises ValueError if an image has more than `MOST_PIXELS`: a network would need gigabytes for it alone."""
    if height * width > MOST_PIXELS:
        raise ValueError(f"{what} must have at most {MOST_PIXELS:,} pixels; given {height}×{width}")


def check_rate(what: str, value: float) -> None:
    """Raises ValueError unless 0 <= `value` < 1."""
    if not isinstance(value, Real) or not 0 <= value < 1:
        raise ValueError(f"{what} must be at least 0 and under 1; given {value!r}")


def check_sizes(what: str, sizes: object) -> None:
    """Raises ValueError unless `sizes` are one or more integers of at least 0."""
    if (
        not isinstance(sizes, list | tuple)
        or not sizes
        or not all(isinstance(n, Integral) and int(n) >= 0 for n in sizes)
    ):
        raise ValueError(f"{what} must be one or more integers of at least 0; given {sizes!r}")
