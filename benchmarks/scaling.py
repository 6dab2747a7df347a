"""Time over depth and batch, beside PyTorch and Flax by hand: `python -m benchmarks.scaling --torch-python PYTHON`.

Measures training steps as `benchmarks.speed` does: ResNets of 20 to 110 layers on 128 images of 32×32, and networks for
224×224 on 1 to 16 images. Prints the same lines as `benchmarks.speed`; `--write` puts the table and a figure into
docs/benchmarks.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import speed
from benchmarks.command_line import check_known, fail, listed, run_benchmark
from benchmarks.page import DOCS, PEERS, replace_between, table
from benchmarks.works import SMALL, WORKS, Work

PROGRAM = "benchmarks.scaling"
BEGIN, END = "<!-- by benchmarks.scaling -->\n", "<!-- end of benchmarks.scaling -->\n"
DEPTHS = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56, "resnet110": 110}
LARGE = sorted({work.arch for work in WORKS if not work.small})


@dataclass(frozen=True)
class Options(speed.Turns):
    """Measures training steps over depth and batch, beside PyTorch and Flax by hand."""

    depth: str = ",".join(DEPTHS)
    """Networks of different depth, separated by commas."""
    depth_batch: int = 128
    """The batch size of these networks."""
    arch: str = "resnet50,densenet121"
    """Networks to run at different batch sizes, separated by commas."""
    batch: str = "1,4,16"
    """The batch sizes of these networks, separated by commas."""
    rounds: int = 3
    """Turns of each contender."""
    seconds: float = 0.5
    """Time of a turn; at least one step."""
    write: bool = False
    """Put the table and the figure into docs/benchmarks.md."""


def works_of(options: Options) -> list[Work]:
    """Returns the works of the options; a wrong name or number ends with exit code 2."""
    check_known(PROGRAM, "depth", options.depth, DEPTHS)
    check_known(PROGRAM, "arch", options.arch, LARGE)
    for batch in (*listed(options.batch), str(options.depth_batch)):
        if not batch.isdecimal() or int(batch) < 1:
            fail(PROGRAM, f"--batch and --depth-batch must be whole numbers from 1; given {batch!r}")
    deep = [Work(arch, options.depth_batch, True) for arch in listed(options.depth)]
    return deep + [Work(arch, int(batch), True) for arch in listed(options.arch) for batch in listed(options.batch)]


def main(options: Options) -> None:
    works = works_of(options)
    speed.check(PROGRAM, works, options)
    results = speed.measure_all(works, options)
    if options.write:
        replace_between(DOCS / "benchmarks.md", BEGIN, END, table(results))
        draw(results, DOCS / "images" / "scaling.png")


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws panels of time over depth, of compile time over depth, and for each network of speed over batch."""
    from matplotlib.figure import Figure

    rows = [(*result["work"].split(), result) for result in results]
    deep = [(DEPTHS[arch], result) for arch, _, _, result in rows if arch in SMALL]
    archs = list(dict.fromkeys(arch for arch, *_ in rows if arch not in SMALL))
    figure = Figure(figsize=(3.6 * (2 + len(archs)), 3.4), layout="constrained")
    panels = figure.subplots(1, 2 + len(archs))
    titles = {"seconds": "a training step, s", "compile_seconds": "compiling it, s"}
    for axes, (key, title) in zip(panels, titles.items(), strict=False):
        curves(axes, deep, key)
        axes.set(xlabel="layers of a CIFAR ResNet", title=title)
        axes.set_ylim(bottom=0)
    for axes, arch in zip(panels[2:], archs, strict=True):
        points = [(int(batch[1:]), result) for name, _, batch, result in rows if name == arch]
        curves(axes, points, "images_per_second")
        axes.set(xlabel="batch", title=f"{arch}, images a second", xscale="log")
        axes.set_xticks([batch for batch, _ in points], [str(batch) for batch, _ in points])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
    panels[0].legend()
    figure.savefig(path, dpi=110)


def curves(axes: Any, points: Sequence[tuple[int, dict[str, Any]]], key: str) -> None:
    """Draws a line for ours and for each peer that has this number."""
    for colour, (name, label) in enumerate({"ours": "ours", **PEERS}.items()):
        shown = [(x, value) for x, result in points if (value := value_of(result, name, key)) is not None]
        if shown:
            axes.plot(*zip(*sorted(shown), strict=True), "o-", color=f"C{colour}", label=label, markersize=4)


def value_of(result: dict[str, Any], name: str, key: str) -> float | None:
    """Returns a contender's number, or None; PyTorch's is that of its faster layout."""
    if name in ("torch", "naive") and f"times {name}" not in result:
        return None
    contender = result[f"times {name}"]["of"] if name != "ours" else name
    return result[contender].get(key)


if __name__ == "__main__":
    run_benchmark(PROGRAM, main, Options)
