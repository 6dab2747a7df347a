"""Ours beside PyTorch and Flax by hand: `python -m benchmarks.speed --torch-python VENV/bin/python`.

Each work (`benchmarks.works`), or those of `--arch` and `--batch`, is run by ours and each peer, in separate processes
that take turns, round by round, while the others wait. A product of matrices takes turns too, and measures the
processor's peak. Prints a line of JSON for each turn and one for each work: medians, and ratios to the peers, each the
median of the rounds' ratios with the smallest and the largest. `--write` puts the table and its plot into docs/.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from benchmarks.command_line import check_known, fail, listed, run_benchmark
from benchmarks.page import write_page
from benchmarks.works import ALONE, WORKS, Work

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "benchmarks.speed"
PEERS = {"torch": ("torch", "torch channels_last"), "naive": ("naive",)}
# PyTorch too is fastest when the process keeps its memory: this does by glibc's options what `keep_memory` does.
KEPT = "glibc.malloc.trim_threshold=0xffffffffffffffff:glibc.malloc.mmap_max=0"


@dataclass(frozen=True)
class Turns:
    """The contenders and the length of their turns."""

    peer: str = "torch,naive"
    """Peers, separated by commas; the deepest networks run without them."""
    torch_python: str = os.environ.get("TORCH_PYTHON", sys.executable)
    """The Python that has torch; by default $TORCH_PYTHON, or else this one."""
    rounds: int = 5
    """Turns of each contender."""
    seconds: float = 3.0
    """Time of a turn; at least one step."""


@dataclass(frozen=True)
class Options(Turns):
    """Measures our networks beside PyTorch and Flax by hand."""

    arch: str = ""
    """Architectures, separated by commas; by default all."""
    batch: int | None = None
    """A batch size in place of the works' own."""
    mode: Literal["train", "infer", "both"] = "both"
    """Training, inference or both."""
    write: bool = False
    """Put the table and the plot into docs/benchmarks.md."""


class Contender:
    """A process that runs a work on request."""

    def __init__(self, name: str, work: Work, python: str):
        self.name = name
        command = [python, "-m", "benchmarks.worker", name, work.arch, str(work.batch)]
        command.append("train" if work.train else "infer")
        # Compile times must be measured, so nothing comes from a cache.
        environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        if name.startswith("torch"):
            environment["GLIBC_TUNABLES"] = KEPT
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        self.facts = self._read()
        self.seconds: list[float] = []

    def turn(self, seconds: float) -> dict[str, Any]:
        """Runs for at least `seconds`; the median of the runs is the turn's time."""
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
    """Runs one work by all contenders, and summarises their times."""
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
    """Returns medians and ratios. PyTorch's time in a round is that of the layout with the smaller median."""
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
    # A backward pass counts as two forward passes: gradients of the inputs, and of the kernels.
    operations = 2 * ours.facts["multiply_adds"] * (3 if work.train else 1)
    peak = 2 * 2048**3 / min(contenders["gemm"].seconds)
    result["peak, GFLOP/s"] = round(peak / 1e9, 1)
    result["share of the peak"] = round(operations / median(ours.seconds) / peak, 3)
    return result


def chosen(options: Options) -> Sequence[Work]:
    """Returns the works that the options name."""
    archs, modes = listed(options.arch), {"train": (True,), "infer": (False,), "both": (True, False)}[options.mode]
    check_known(PROGRAM, "arch", options.arch, sorted({work.arch for work in WORKS}))
    works = [work for work in WORKS if work.train in modes and (not archs or work.arch in archs)]
    if archs and options.mode == "infer":  # for the works that the table has only in training
        others = set(archs) - {work.arch for work in works}
        works += [replace(work, train=False) for work in WORKS if work.arch in others]
    if options.batch is None:
        return works
    return list(dict.fromkeys(replace(work, batch=options.batch) for work in works))


def has_torch(python: str) -> bool:
    """Tells if this Python exists and imports torch."""
    command = [python, "-c", "import torch"]
    return bool(shutil.which(python)) and subprocess.run(command, capture_output=True).returncode == 0


def check(program: str, works: Sequence[Work], turns: Turns) -> None:
    """Ends with exit code 2 if an option is wrong, or if PyTorch is requested and not installed."""
    check_known(program, "peer", turns.peer, sorted(PEERS))
    if turns.rounds < 1:
        fail(program, f"--rounds must be at least 1; given {turns.rounds}")
    with_peers = any(work.arch not in ALONE for work in works)
    if with_peers and "torch" in listed(turns.peer) and not has_torch(turns.torch_python):
        hint = "name one that has by --torch-python, or go on with --peer naive"
        fail(program, f"{turns.torch_python} has no torch: {hint}")


def measure_all(works: Iterable[Work], turns: Turns) -> list[dict[str, Any]]:
    """Runs all works, and prints a line of JSON for each."""
    results = []
    for work in works:
        results.append(measure(work, turns))
        print(json.dumps(results[-1]), flush=True)
    return results


def main(options: Options) -> None:
    if options.batch is not None and options.batch < 1:
        fail(PROGRAM, f"--batch must be at least 1; given {options.batch}")
    works = chosen(options)
    check(PROGRAM, works, options)
    results = measure_all(works, options)
    if options.write:
        write_page(results)


if __name__ == "__main__":
    run_benchmark(PROGRAM, main, Options)
