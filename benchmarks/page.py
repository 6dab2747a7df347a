"""Table and plot of docs/benchmarks.md, from the results of `benchmarks.speed`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
PEERS = {"torch": "PyTorch", "naive": "Flax by hand"}
BEGIN, END = "<!-- by benchmarks.speed -->\n", "<!-- end -->\n"
HEADS = (
    "work",
    "images/s",
    "× torch",
    "× naive",
    "compile, s",
    "naive's",
    "memory, MB",
    "naive's",
    "share of the peak",
)


def write_page(results: Sequence[dict[str, Any]]) -> None:
    """Replaces the table in docs/benchmarks.md, and docs/images/speed.png."""
    replace_between(DOCS / "benchmarks.md", BEGIN, END, table(results))
    if compared := with_peers(results):
        draw(compared, DOCS / "images" / "speed.png")


def with_peers(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the results that have a ratio to a peer."""
    return [result for result in results if "times torch" in result or "times naive" in result]


def replace_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replaces the text between two marks of a page."""
    before, rest = page.read_text().split(begin)
    page.write_text(before + begin + text + end + rest.split(end)[1])


def table(results: Sequence[dict[str, Any]]) -> str:
    """Returns a line of Markdown for each work."""
    rows = []
    for result in results:
        ours, naive = result["ours"], result.get("naive", {})
        row = [
            result["work"],
            f"{ours['images_per_second']:.1f}",
            ratio(result.get("times torch")),
            ratio(result.get("times naive")),
            f"{ours['compile_seconds']:.1f}",
            f"{naive['compile_seconds']:.1f}" if naive else "–",
            f"{ours['temp_mb']:.0f}",
            f"{naive['temp_mb']:.0f}" if naive else "–",
            f"{100 * result['share of the peak']:.0f} %",
        ]
        rows.append(row)
    return markdown(HEADS, rows)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[Any]], texts: int = 1) -> str:
    """Returns a table of Markdown, whose columns hold numbers, except the first ones, which hold texts."""
    lines = ["".join(f" {cell} |" if cell != "" else " |" for cell in row) for row in (heads, *rows)]
    lines.insert(1, "---|" * texts + "---:|" * (len(heads) - texts))
    return "".join(f"|{line}\n" for line in lines)


def ratio(times: dict[str, Any] | None) -> str:
    """Returns a median and its spread as text."""
    return f"{times['median']:.2f} ({times['least']:.2f} to {times['most']:.2f})" if times else "–"


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the ratios as bars, with their spread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.5 * len(results)), layout="constrained")
    axes = figure.subplots()
    for place, (peer, label) in enumerate(PEERS.items()):
        shown = [(row, result[f"times {peer}"]) for row, result in enumerate(results) if f"times {peer}" in result]
        rows = [row + 0.4 * (place - 0.5) for row, _ in shown]
        medians = [times["median"] for _, times in shown]
        spread = [
            [times["median"] - times["least"] for _, times in shown],
            [times["most"] - times["median"] for _, times in shown],
        ]
        axes.barh(rows, medians, 0.38, xerr=spread, label=label, error_kw={"elinewidth": 1})
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(results)), [result["work"] for result in results])
    axes.invert_yaxis()
    axes.set_xlabel("speed, times the peer's")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
