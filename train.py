#!/usr/bin/env python3
"""The front door: trains a residual or densely connected network.

python train.py --arch densenet121
"""

import contextlib
import io
import re
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
        # tyro draws a box of many lines; here one has to do, and --help tells the rest.
        text = re.sub(r"[─━╭╮╰╯│]+", " ", complaint.getvalue().split("For full helptext")[0])
        raise ValueError(" ".join(text.split())) from None


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
    sys.exit(main(sys.argv[1:]))
