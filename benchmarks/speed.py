"""Ours beside PyTorch and Flax by hand: `python -m benchmarks.speed --torch-python VENV/bin/python`.

Each work (`benchmarks.works`), or those of `--arch` and `--batch`, is run by ours and by each peer in a process of its
own, in turn, round by round, while the others wait; a product of matrices runs beside them and gives the processor's
peak. Prints a line of JSON for each contender's turn and one for each work: medians, and ratios to the peers, which are
medians of the rounds' ratios with the smallest and the largest. `--write` puts the table and its plot into docs/.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import tyro

from benchmarks.command_line import check_known, fail, listed
from benchmarks.works import ALONE, WORKS, Work

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "benchmarks.speed"
PEERS = {"torch": ("torch", "torch channels_last"), "naive": ("naive",)}
# PyTorch is at its best as well where the process keeps its memory: this asks glibc for what `keep_memory` does.
KEPT = "glibc.malloc.trim_threshold=0xffffffffffffffff:glibc.malloc.mmap_max=0"


@dataclass(frozen=True)
class Turns:
    """Who takes turns, and how often."""

    peer: str = "torch,naive"
    """Whom ours is compared with; nobody at the deepest networks."""
    torch_python: str = os.environ.get("TORCH_PYTHON", sys.executable)
    """The Python that has torch; $TORCH_PYTHON by default, or else this one."""
    rounds: int = 5
    """How often each contender has its turn."""
    seconds: float = 3.0
    """How long a turn is, at least one step."""


@dataclass(frozen=True)
class Options(Turns):
    """What is measured."""

    arch: str = ""
    """Architectures, with commas between; left out, all."""
    batch: int | None = None
    """Another batch than the table's."""
    mode: Literal["train", "infer", "both"] = "both"
    """What the networks do."""
    write: bool = False
    """Put the table and the plot into docs/benchmarks.md."""


class Contender:
    """A process that does a work when it is told to."""

    def __init__(self, name: str, work: Work, python: str):
        self.name = name
        command = [python, "-m", "benchmarks.worker", name, work.arch, str(work.batch)]
        command.append("train" if work.train else "infer")
        # What is compiled is compiled anew, whatever a cache holds.
        environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        if name.startswith("torch"):
            environment["GLIBC_TUNABLES"] = KEPT
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        self.facts = self._read()
        self.seconds: list[float] = []

    def turn(self, seconds: float) -> dict[str, Any]:
        """Runs for at least so long; the median of the runs is the turn's time."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)
        answer = self._read()
        self.seconds.append(median(answer["seconds"]))
        self.facts["peak_rss_mb"] = answer["peak_rss_mb"]
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.end()
            fail(PROGRAM, f"{self.name} ended with exit code {self.process.returncode}")
        return json.loads(line)


def measure(work: Work, turns: Turns) -> dict[str, Any]:
    """One work by all contenders."""
    peers = [] if work.arch in ALONE else listed(turns.peer)
    names = ["ours", *(name for peer in peers for name in PEERS[peer])]
    with ExitStack() as stack:
        contenders = {}
        for name in [*names, "gemm"]:
            python = turns.torch_python if name.startswith("torch") else sys.executable
            contenders[name] = Contender(name, work, python)
            stack.callback(contenders[name].end)
        for number in range(turns.rounds):
            for name, contender in contenders.items():
                answer = contender.turn(turns.seconds if name != "gemm" else 0.3)
                times = [round(value, 4) for value in answer["seconds"]]
                print(json.dumps({"work": work.name, "round": number, "by": name, "seconds": times}), flush=True)
        return summarise(work, contenders)


def summarise(work: Work, contenders: dict[str, Contender]) -> dict[str, Any]:
    """Medians and ratios. PyTorch's time in a round is that of the layout which is faster in all rounds."""
    result: dict[str, Any] = {"work": work.name, "rounds": len(contenders["ours"].seconds)}
    for name, contender in contenders.items():
        if name == "gemm":
            continue
        seconds = median(contender.seconds)
        result[name] = {"seconds": round(seconds, 4), "images_per_second": round(work.batch / seconds, 2)}
        result[name] |= {key: round(value, 1) for key, value in contender.facts.items() if key != "multiply_adds"}
    ours = contenders["ours"]
    by_torch = [contender for name, contender in contenders.items() if name.startswith("torch")]
    peers = {"torch": min(by_torch, key=lambda c: median(c.seconds))} if by_torch else {}
    peers |= {"naive": contenders["naive"]} if "naive" in contenders else {}
    for name, peer in peers.items():
        ratios = [theirs / mine for theirs, mine in zip(peer.seconds, ours.seconds, strict=True)]
        result[f"times {name}"] = {"median": round(median(ratios), 3), "of": peer.name}
        result[f"times {name}"] |= {"least": round(min(ratios), 3), "most": round(max(ratios), 3)}
    # A backward pass is two forward passes: gradients of what comes in, and of the kernels.
    operations = 2 * ours.facts["multiply_adds"] * (3 if work.train else 1)
    peak = 2 * 2048**3 / min(contenders["gemm"].seconds)
    result["peak, GFLOP/s"] = round(peak / 1e9, 1)
    result["share of the peak"] = round(operations / median(ours.seconds) / peak, 3)
    return result


def chosen(options: Options) -> Sequence[Work]:
    """The works that the options name."""
    archs, modes = listed(options.arch), {"train": (True,), "infer": (False,), "both": (True, False)}[options.mode]
    check_known(PROGRAM, "arch", options.arch, sorted({work.arch for work in WORKS}))
    works = [work for work in WORKS if work.train in modes and (not archs or work.arch in archs)]
    if archs and options.mode == "infer":  # those that the table has in training alone
        works += [
            replace(work, train=False) for work in WORKS if work.arch in set(archs) - {work.arch for work in works}
        ]
    if options.batch is None:
        return works
    return list(dict.fromkeys(replace(work, batch=options.batch) for work in works))


def has_torch(python: str) -> bool:
    """Whether there is such a Python and it imports torch."""
    command = [python, "-c", "import torch"]
    return bool(shutil.which(python)) and subprocess.run(command, capture_output=True).returncode == 0


def check(program: str, works: Sequence[Work], turns: Turns) -> None:
    """Ends with exit code 2 where an option is wrong, or PyTorch is asked for and not there."""
    check_known(program, "peer", turns.peer, sorted(PEERS))
    if turns.rounds < 1:
        fail(program, f"--rounds must be at least 1; given {turns.rounds}")
    compared = any(work.arch not in ALONE for work in works)
    if compared and "torch" in listed(turns.peer) and not has_torch(turns.torch_python):
        fail(
            program,
            f"{turns.torch_python} has no torch: name one that has by --torch-python, or go on with --peer naive",
        )


def main(options: Options) -> None:
    if options.batch is not None and options.batch < 1:
        fail(PROGRAM, f"--batch must be at least 1; given {options.batch}")
    works = chosen(options)
    check(PROGRAM, works, options)
    results = []
    for work in works:
        results.append(measure(work, options))
        print(json.dumps(results[-1]), flush=True)
    if options.write:
        from benchmarks.page import write_page

        write_page(results)


if __name__ == "__main__":
    main(tyro.cli(Options))
