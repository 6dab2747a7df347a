"""The options of `python -m theory_flax`, and the functions that a claim consists of for the command line."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from matplotlib.figure import Figure

ALWAYS = {"claim", "out", "quick"}


@dataclass(frozen=True)
class Options:
    """Runs a claim of the theory; writes NAME.json and NAME.png."""

    claim: Annotated[str, tyro.conf.Positional]
    """The claim's name, or "all"."""
    out: Path = Path("theory")
    """Folder to write to."""
    arch: tuple[str, ...] = ()
    """Architectures to measure, in place of the claim's own."""
    run: Path | None = None
    """The folder of a training run of train.py, whose network is measured."""
    which: str | None = None
    """Weights of a run: best, averaged or last. Left out, the first of these that it has."""
    quick: bool = False
    """Measure in minutes on a laptop; without this option the claim is measured as thoroughly as in the paper."""
    data: str | None = None
    """Data set, as train.py takes it. Left out, the run's, or digits."""
    data_dir: Path | None = None
    """Folder of prepared data sets of TFDS."""
    seeds: int | None = None
    """Number of seeds that the error bars are computed over; by default the claim's own number."""


class Claim(NamedTuple):
    """A claim as the command line runs it.

    Attributes:
        measure: (options, say) → a frozen result; `say` prints a line of progress.
        draw: result → figure.
        summary: result → lines for the terminal.
        uses: names of the options that the claim reads, besides claim, out and quick.
    """

    measure: Callable[[Options, Callable[[str], None]], Any]
    draw: Callable[[Any], Figure]
    summary: Callable[[Any], list[str]]
    uses: frozenset[str]


def meant_for(name: str, claim: Claim, options: Options) -> Options:
    """Returns the options of one claim: under "all" each claim gets only the options that it uses.

    Raises:
        ValueError: the claim does not use an option that was given, or an option is out of range.
    """
    unused: dict[str, Any] = {
        field.name: field.default
        for field in fields(Options)
        if field.name not in claim.uses | ALWAYS and getattr(options, field.name) != field.default
    }
    if unused and options.claim != "all":
        given = next(iter(unused))
        raise ValueError(f"{name} takes no {given}; given {str(getattr(options, given))!r}")
    if options.which is not None and options.run is None:
        raise ValueError(f"which chooses weights of a run; given {options.which!r} and no run")
    if options.seeds is not None and options.seeds < 1:
        raise ValueError(f"seeds must be at least 1; given {options.seeds}")
    return replace(options, **unused)
