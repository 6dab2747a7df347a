"""Checks of arguments: each raises a ValueError of one line that names the value and the allowed ones."""

import difflib
import re
from collections.abc import Callable, Iterable
from numbers import Integral, Real

CONFUSED = str.maketrans("oil", "011")
LEAST_BEGINNING = 3  # characters
SIMILAR = 0.6  # share of characters in common, of which more than this are needed
MOST_PIXELS = 2**24  # of an image that a network sees, 4096×4096


def one_of(what: str, value: object, allowed: Iterable[object]) -> None:
    """Raises ValueError unless `value` is in `allowed`, naming the nearest match, or all of a short list."""
    allowed = list(allowed)
    if value in allowed:
        return
    near = nearest(str(value), [str(a) for a in allowed])
    if near is not None:
        hint = f"did you mean {near!r}?"
    else:
        shown = [repr(a) for a in allowed[:12]]
        hint = "allowed: " + ", ".join(shown) + (", …" if len(allowed) > 12 else "")
    raise ValueError(f"unknown {what} {value!r}; {hint}")


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Returns the allowed word that was probably meant; None if none is near.

    First come words that differ in what eyes and fingers confuse alone: capitals, O and 0, l, I and 1, and signs
    between parts; then those of the same letters in another order, longer words that begin so, and the most similar
    one. Of equals the one with the longer common beginning is taken, then the first.
    """
    meant, forms = _form(word), {each: _form(each) for each in allowed}
    alike: tuple[Callable[[str], bool], ...] = (
        lambda form: form == meant,
        lambda form: sorted(form) == sorted(meant),
        lambda form: len(meant) >= LEAST_BEGINNING and form.startswith(meant),
    )
    for is_alike in alike:
        for each, form in forms.items():
            if is_alike(form):
                return each
    score = {each: difflib.SequenceMatcher(None, form, meant).ratio() for each, form in forms.items()}
    best = max(score, key=lambda each: (score[each], _shared(forms[each], meant)), default=None)
    return best if best is not None and score[best] > SIMILAR else None


def _shared(first: str, second: str) -> int:
    """Returns the number of characters with which both words begin."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _form(word: str) -> str:
    return re.sub(r"[\W_]", "", word.lower()).translate(CONFUSED)


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
