"""Shared parts of the benchmarks' command lines: options, results, and errors in one line."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn, TypeVar

import numpy as np

from common_flax.command_line import parse_options, write_to_any_terminal

Options = TypeVar("Options")


def run_benchmark(program: str, main: Callable[[Options], None], kind: type[Options]) -> None:
    """Runs `main` with the options of the command line, a dataclass of type `kind`; wrong ones end with exit code 2."""
    write_to_any_terminal()
    try:
        options = parse_options(kind, sys.argv[1:], prog=f"python -m {program}", description=kind.__doc__ or "")
    except ValueError as error:
        fail(program, str(error))
    main(options)


def compared(speeds: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Summarises the images a second of two sides, a number for each round: medians and ratios of first to second."""
    first, second = speeds.values()
    ratios = np.divide(first, second)
    return {
        **{f"{side}, images/s": round(float(np.median(values)), 1) for side, values in speeds.items()},
        "ratio": round(float(np.median(ratios)), 4),
        "spread of the ratio": [round(float(ratios.min()), 4), round(float(ratios.max()), 4)],
    }


def listed(names: str) -> list[str]:
    """Splits names at commas."""
    return [name for name in names.split(",") if name]


def check_known(program: str, option: str, names: str, known: Iterable[str]) -> None:
    """Ends with exit code 2 unless all of the names between commas are in `known`."""
    known = list(known)
    for name in listed(names):
        if name not in known:
            fail(program, f"--{option} must be of {', '.join(known)}; given {name!r}")


def fail(program: str, message: str) -> NoReturn:
    """Prints one line and ends with exit code 2."""
    print(f"{program}: error: {message}", file=sys.stderr)
    raise SystemExit(2)
