"""Tables of docs/accelerators.md, from the programs that `benchmarks.accelerators` counts."""

from collections.abc import Sequence
from typing import Any

from benchmarks.absent import AbsentWork
from benchmarks.page import DOCS, markdown, replace_between

PAGE = DOCS / "accelerators.md"
BEGIN, END = "<!-- {} by benchmarks.accelerators -->\n", "<!-- end of {} -->\n"
HEADS = ("network", "chips", "", "GB", "all-reduces", "copies", "temporary GB", "bound, ms", "images/s a chip", "binds")


def write_page(results: Sequence[dict[str, Any]]) -> None:
    """Replaces the tables of steps and of how they grow with the number of chips."""
    replace_between(PAGE, BEGIN.format("steps"), END.format("steps"), steps(results))
    replace_between(PAGE, BEGIN.format("scaling"), END.format("scaling"), scaling(results))


def works(archs: Sequence[str], topologies: Sequence[str]) -> list[AbsentWork]:
    """Returns the training steps of the page."""
    return [AbsentWork(arch, topology, 256) for arch in archs for topology in topologies]


def steps(results: Sequence[dict[str, Any]]) -> str:
    """Returns a line for each contender."""
    rows = []
    for result in results:
        name = (result["arch"], result["topology"], result["who"])
        counts = (f"{result['traffic_gb']:.2f}", result["all_reduces"], result["copies"], f"{result['temp_gb']:.2f}")
        bounds = (f"{result['bound_ms']:.2f}", f"{result['images_per_second_bound']:,.0f}", result["binds"])
        rows.append((*name, *counts, *bounds))
    return markdown(HEADS, rows, texts=3)


def scaling(results: Sequence[dict[str, Any]]) -> str:
    """Returns a line for each of our steps: what chips add together, and the share of a lone chip's speed that is left.

    The sum goes round a ring at the published rate of all links, and no step goes on meanwhile.
    """
    rows = []
    for result in results:
        if result["who"] == "ours":
            links = 0.0 if result["all_reduces"] == 0 else result["links_ms"]
            left = result["bound_ms"] / (result["bound_ms"] + links)
            rows.append(
                (result["arch"], result["topology"], f"{result['all_reduced_mb']:.1f}", f"{links:.2f}", f"{left:.1%}")
            )
    return markdown(("network", "chips", "added, MB", "ms", "left"), rows, texts=2)
