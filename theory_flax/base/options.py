"""The options of `python -m theory_flax`, and what a claim makes of them."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Options:
    """Runs a claim of the theory; writes NAME.json and NAME.png."""

    claim: Annotated[str, tyro.conf.Positional]
    """Which one, or "all"."""
    out: Path = Path("theory")
    """Folder to write to."""
    arch: tuple[str, ...] = ()
    """Architectures to look at, in place of the claim's own."""
    run: Path | None = None
    """A training run of train.py, whose network is looked at."""
    quick: bool = False
    """Minutes on a laptop; without it, as thoroughly as the paper."""
    data: str = "digits"
    """Data set, as train.py takes it."""
    data_dir: Path | None = None
    """Where prepared data sets of TFDS are."""
    seeds: int | None = None
    """How many seeds the error bars are over; the claim's own number if not given."""


class Claim(NamedTuple):
    """How a claim is run from the command line.

    Attributes:
        measure: (options, say) → a frozen result; `say` prints a line of progress.
        draw: result → figure.
        summary: result → lines for the terminal, what was found.
        uses: names of the options that mean something to it, besides claim, out and quick.
    """

    measure: Callable[[Options, Callable[[str], None]], Any]
    draw: Callable[[Any], Figure]
    summary: Callable[[Any], list[str]]
    uses: frozenset[str]


def meant_for(name: str, claim: Claim, options: Options) -> Options:
    """The options of one claim: of "all" each takes what it uses.

    Raises:
        ValueError: an option was given that means nothing to the claim, or is out of range.
    """
    unused: dict[str, Any] = {
        field.name: field.default
        for field in fields(Options)
        if field.name not in claim.uses | {"claim", "out", "quick"} and getattr(options, field.name) != field.default
    }
    if unused and options.claim != "all":
        given = next(iter(unused))
        raise ValueError(f"{name} takes no {given}; given {str(getattr(options, given))!r}")
    if options.seeds is not None and options.seeds < 1:
        raise ValueError(f"seeds must be at least 1; given {options.seeds}")
    return replace(options, **unused)
