#!/usr/bin/env python3
"""The front door: trains a residual or densely connected network.

python train.py --arch densenet121
"""

import contextlib
import io
import sys
from collections.abc import Sequence

import tyro

from training_flax import FAMILIES, TrainConfig, fit, keep_compiled_programs, prepare


def describe() -> str:
    """What --help says above the options: what this does, and the architectures by family."""
    width = max(map(len, FAMILIES))
    families = [f"  {name:{width}}  {', '.join(arch.__name__ for arch in archs)}" for name, archs in FAMILIES.items()]
    return "\n".join(["Trains a residual or densely connected network in JAX.", "", "Architectures:", *families])


def parse(arguments: Sequence[str]) -> TrainConfig:
    """The command line as a config.

    Raises:
        ValueError: what is wrong with it, in one line.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                TrainConfig, prog="train.py", description=describe(), args=arguments, config=(tyro.conf.DisallowNone,)
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise  # --help
        raise ValueError(in_one_line(complaint.getvalue())) from None


def in_one_line(box: str) -> str:
    """What tyro says in a box of several parts: the complaint, and the option that may have been meant."""
    lines = [line.strip(" │╭╮╰╯") for line in box.splitlines()[1:]]  # but for the title
    # Lines of dashes stand between the parts; where the terminal knows ASCII alone they are hyphens.
    ruled = "\n".join("\0" if line and not line.strip("─-") else line for line in lines)
    parts = [" ".join(part.split()) for part in ruled.split("\0") if part.strip()]
    complaint = parts[0].split(" Got errors:")[0].rstrip(".")
    meant = next((part.split(": ", 1)[1].split()[0] for part in parts if part.startswith("Perhaps you meant")), None)
    return complaint + (f"; did you mean {meant!r}?" if meant else "")


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; gives the exit code: 2 for wrong input, 130 when interrupted."""
    try:
        keep_compiled_programs()
        job = prepare(parse(arguments))
    except ValueError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 2
    try:
        fit(job)
    except KeyboardInterrupt:
        print(f"\ntrain.py: interrupted; what is finished is in {job.run}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks × shows ?, and the run goes on
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))
