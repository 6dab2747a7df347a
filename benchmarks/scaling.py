"""Time against depth and batch, beside PyTorch and Flax by hand: `python -m benchmarks.scaling --torch-python PYTHON`.

Training steps, as `benchmarks.speed` takes them: ResNets of 20 to 110 layers on 128 images of 32×32, and networks of
224×224 on 1 to 16 images. Prints what `benchmarks.speed` prints; `--write` puts the table and a figure into
docs/benchmarks.md.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import speed
from benchmarks.command_line import check_known, fail, listed
from benchmarks.page import DOCS, PEERS, replace_between, table
from benchmarks.works import SMALL, WORKS, Work

PROGRAM = "benchmarks.scaling"
BEGIN, END = "<!-- by benchmarks.scaling -->\n", "<!-- end of benchmarks.scaling -->\n"
DEPTHS = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56, "resnet110": 110}
LARGE = sorted({work.arch for work in WORKS if not work.small})


@dataclass(frozen=True)
class Options(speed.Turns):
    """What is measured."""

    depth: str = ",".join(DEPTHS)
    """Networks of different depth, with commas between."""
    depth_batch: int = 128
    """Images at once of those."""
    arch: str = "resnet50,densenet121"
    """Networks at different batches, with commas between."""
    batch: str = "1,4,16"
    """Images at once of those, with commas between."""
    rounds: int = 3
    """How often each contender has its turn."""
    seconds: float = 0.5
    """How long a turn is, at least one step."""
    write: bool = False
    """Put the table and the figure into docs/benchmarks.md."""


def works_of(options: Options) -> list[Work]:
    """Ends with exit code 2 where a name or a number is wrong."""
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
    results = []
    for work in works:
        results.append(speed.measure(work, options))
        print(json.dumps(results[-1]), flush=True)
    if options.write:
        replace_between(DOCS / "benchmarks.md", BEGIN, END, table(results))
        draw(results, DOCS / "images" / "scaling.png")


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel of time over depth, one of compile time over depth, and one of images a second over batch a network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = [(*result["work"].split(), result) for result in results]
    deep = [(DEPTHS[arch], result) for arch, _, _, result in found if arch in SMALL]
    archs = list(dict.fromkeys(arch for arch, *_ in found if arch not in SMALL))
    figure, panels = plt.subplots(1, 2 + len(archs), figsize=(3.6 * (2 + len(archs)), 3.4), layout="constrained")
    for axes, key, title in (
        (panels[0], "seconds", "a training step, s"),
        (panels[1], "compile_seconds", "compiling it, s"),
    ):
        curves(axes, deep, key)
        axes.set(xlabel="layers of a CIFAR ResNet", title=title)
        axes.set_ylim(bottom=0)
    for axes, arch in zip(panels[2:], archs, strict=True):
        curves(
            axes, [(int(batch[1:]), result) for name, _, batch, result in found if name == arch], "images_per_second"
        )
        axes.set(xlabel="batch", title=f"{arch}, images a second", xscale="log")
        batches = [int(batch[1:]) for name, _, batch, _ in found if name == arch]
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
    panels[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def curves(axes: Any, points: Sequence[tuple[int, dict[str, Any]]], key: str) -> None:
    """A line for ours and for each peer that has such a number."""
    for colour, (name, label) in enumerate({"ours": "ours", **PEERS}.items()):
        shown = [(x, value) for x, result in points if (value := value_of(result, name, key)) is not None]
        if shown:
            axes.plot(*zip(*sorted(shown), strict=True), "o-", color=f"C{colour}", label=label, markersize=4)


def value_of(result: dict[str, Any], name: str, key: str) -> float | None:
    """Of PyTorch, the layout that is faster."""
    if name in ("torch", "naive") and f"times {name}" not in result:
        return None
    contender = result[f"times {name}"]["of"] if name != "ours" else name
    return result[contender].get(key)


if __name__ == "__main__":
    main(tyro.cli(Options))
