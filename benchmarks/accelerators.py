"""Ours beside Flax by hand on accelerators that are not there: `python -m benchmarks.accelerators --topology v5e:2x4`.

The compilers of TPUs and NVIDIA GPUs run without the device. Each contender's step, in bfloat16, is compiled in a
process of its own, and its optimised program is read (`benchmarks.hlo`): what it moves to and from memory, what chips
add up together, how much memory it takes. With the chip's published peaks that gives a bound: no step can be faster
than its operations or its traffic allow. Nothing runs, so nothing here is a time.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from benchmarks import accelerators_page
from benchmarks.absent import AbsentWork
from benchmarks.chips import chip_of, environment
from benchmarks.command_line import check_known, fail, listed, run_benchmark
from benchmarks.hlo import COLLECTIVES, Program

PROGRAM = "benchmarks.accelerators"
ARCHS = ("resnet50", "densenet121", "densenet201", "resnet20", "wide_resnet28_10", "resnext50_32x4d")
PEERS = ("naive", "none")
LONGEST = 1800.0  # seconds of a compilation
# XLA writes this as soon as the program and its memory are settled; the machine's code, which takes far longer, is not
# needed.
SETTLED = "*after_optimizations-memory-usage-report.txt"


@dataclass(frozen=True)
class Options:
    """Counts what steps of training move on chips that are not there."""

    topology: str = "v5e:2x4"
    """Chips, such as v5e:2x4, v6e:2x2, v5p:2x2x1, v4:2x2x1 or cuda:8 (H100); several, separated by commas."""
    arch: str = "resnet50"
    """Architectures, separated by commas."""
    batch: int = 256
    """Images a chip."""
    mode: Literal["train", "infer"] = "train"
    """A training step, or the logits of evaluation."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How our step is spread over the chips."""
    remat: bool = False
    """Compute parts of our networks again in the backward pass."""
    peer: str = "naive"
    """The peer, Flax by hand; "none" for ours alone."""
    json: bool = False
    """Print a line of JSON for each contender, not a table."""
    write: bool = False
    """Put the tables into docs/accelerators.md, not on the terminal."""


def main(options: Options) -> None:
    """Compiles and prints one contender after another."""
    check_known(PROGRAM, "arch", options.arch, ARCHS)
    check_known(PROGRAM, "peer", options.peer, PEERS)
    if options.batch < 1:
        fail(PROGRAM, f"--batch must be a positive integer; given {options.batch}")
    try:
        for topology in listed(options.topology):
            chip_of(topology)
        if options.write:
            works = accelerators_page.works(listed(options.arch), listed(options.topology))
            accelerators_page.write_page([count(work, who) for work in works for who in ("ours", "naive")])
            return
        if not options.json:
            print(f"{'':36} {'GB':>8} {'all-reduces':>12} {'copies':>7} {'temp GB':>8} {'bound ms':>9} {'images/s':>9}")
        for arch, topology in product(listed(options.arch), listed(options.topology)):
            work = AbsentWork(arch, topology, options.batch, options.mode == "train", options.parallel, options.remat)
            for who in ("ours", *([] if options.peer == "none" else [options.peer])):
                counted = count(work, who)
                print(json.dumps(counted) if options.json else row(counted), flush=True)
    except ValueError as error:
        fail(PROGRAM, str(error))


def row(counted: dict[str, Any]) -> str:
    """Returns a line of the table."""
    name = f"{counted['arch']} {counted['mode']}, {counted['who']}"
    numbers = (
        f"{counted['traffic_gb']:8.2f} {counted['all_reduces']:12} {counted['copies']:7} {counted['temp_gb']:8.2f}"
    )
    bound = f"{counted['bound_ms']:9.2f} {counted['images_per_second_bound']:9.0f}"
    return f"{name:36} {numbers} {bound}  ({counted['binds']} binds)"


def count(work: AbsentWork, who: str) -> dict[str, Any]:
    """Compiles a contender's step and returns what it does, on one chip in one step.

    Raises:
        ValueError: there is no compiler for the topology, or it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        text, temporary = compiled(work, who, Path(folder))
        seconds = time.perf_counter() - began
    program, chip, flops = Program(text), chip_of(work.topology), work.flops()
    traffic, reduced = program.traffic(), program.reduced()
    computes, moves = flops / chip.flops, traffic / chip.bandwidth
    bound = max(computes, moves)
    return {
        **{name: value for name, value in asdict(work).items() if name != "train"},
        "mode": "train" if work.train else "infer",
        "who": who,
        "traffic_gb": round(traffic / 1e9, 4),
        "all_reduces": program.count(*COLLECTIVES),
        "all_reduced_mb": round(reduced / 1e6, 3),
        "copies": program.count("copy"),
        "temp_gb": round(temporary / 1e9, 4),
        "gflop": round(flops / 1e9, 1),
        "bound_ms": round(1e3 * bound, 4),
        "binds": "memory" if moves > computes else "compute",
        "images_per_second_bound": round(work.batch / bound, 1),
        "links_ms": round(2e3 * reduced / chip.links, 4),  # each chip sends and receives the sum in parts
        "compile_seconds": round(seconds, 1),
    }


def compiled(work: AbsentWork, who: str, folder: Path) -> tuple[str, int]:
    """Returns the text of the optimised program and its temporary memory in bytes."""
    flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=step|lambda|apply|fun"
    command = [sys.executable, "-m", "benchmarks.accelerators", "--compile", json.dumps(asdict(work)), who]
    error = folder / "error.txt"
    with error.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**environment(), "XLA_FLAGS": flags},
            cwd=Path(__file__).parents[1],
        )
        deadline = time.monotonic() + LONGEST
        while process.poll() is None and not _settled(folder) and time.monotonic() < deadline:
            time.sleep(0.2)
        ended = process.poll()
        process.kill()
        process.wait()
    programs = sorted(folder.glob("*after_optimizations.txt"), key=lambda path: path.stat().st_size)
    if ended or not programs:
        last = [line for line in error.read_text().splitlines() if line.strip()][-1:]
        raise ValueError(f"{work.arch} on {work.topology} is not compiled: {' '.join(last)[:300] or 'no program'}")
    allocations = programs[-1].with_name(programs[-1].name.replace(".txt", "-buffer-assignment.txt")).read_text()
    temporary = re.findall(r"^allocation \d+: size (\d+), (?:page 0, )?preallocated-temp", allocations, re.M)
    return programs[-1].read_text(), sum(map(int, temporary))


def _settled(folder: Path) -> bool:
    """Tells if XLA has written all of the largest program."""
    reports = list(folder.glob(SETTLED))
    return any(time.time() - report.stat().st_mtime > 2 and report.stat().st_size > 0 for report in reports)


def compile_here(work: str, who: str) -> None:
    """Compiles a work in this process, whose options for XLA make it write the program down."""
    AbsentWork(**json.loads(work)).lower(who).compile()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compile"]:
        compile_here(*sys.argv[2:])
    else:
        run_benchmark(PROGRAM, main, Options)
