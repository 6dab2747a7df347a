"""The tables of docs/layers.md: the choices of formulas, and what `benchmarks.layers` measured."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.page import DOCS, replace_between
from layers_flax.conv.choices import CONVOLUTION, INFERENCE, KERNEL_GRADIENT

PAGE = DOCS / "layers.md"
BEGIN, END = "<!-- {} by benchmarks.layers -->\n", "<!-- end of {} -->\n"
TABLES = {"convolution": CONVOLUTION, "gradient of the kernel": KERNEL_GRADIENT, "inference": INFERENCE}
SLOWEST = 12


def write_page(rows: Sequence[dict[str, Any]]) -> None:
    """Replaces the tables between their marks; one of which nothing was measured stays as it is."""
    tables = {"choices": choices()}
    if any(row["mode"] != "filter" for row in rows):
        tables["speeds"] = speeds(rows)
    if any(row["mode"] == "filter" for row in rows):
        tables["formulas"] = formulas(rows)
    for name, table in tables.items():
        replace_between(PAGE, BEGIN.format(name), END.format(name), table)


def choices() -> str:
    """The tables of `layers_flax.choices`, a line of Markdown for each row."""
    lines = ["| of the | formula | layers | on | because |", "|---|---|---|---|---|"]
    for name, table in TABLES.items():
        for row in table:
            where = "CPU" if row.cpu else "all"
            lines.append(f"| {name} | {row.formula} | {row.fits.__doc__} | {where} | {row.why} |")
    return "\n".join(lines) + "\n"


def speeds(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each mode and batch, and then the slowest layers."""
    ours = [row for row in rows if "ours" in row["times stock"]]
    lines = ["| | batch | layers | least | median | most | below 0.9 |", "|---|---:|---:|---:|---:|---:|---:|"]
    for mode, batch in sorted({(row["mode"], row["batch"]) for row in ours}):
        speed = [row["times stock"]["ours"] for row in ours if (row["mode"], row["batch"]) == (mode, batch)]
        cells = (mode, batch, len(speed), min(speed), round(median(speed), 2), max(speed), sum(s < 0.9 for s in speed))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if guessed := sum("as of batch" in row for row in ours):
        lines += ["", f"The ratio of {guessed} is that of fewer images: with so many the stock one takes too long."]
    lines += [
        "",
        "The slowest:",
        "",
        "| layer | | batch | × stock | in the fastest rounds |",
        "|---|---|---:|---:|---:|",
    ]
    for row in sorted(ours, key=lambda row: row["times stock"]["ours"])[:SLOWEST]:
        best = row.get("of the fastest rounds", row["times stock"])["ours"]
        lines.append(f"| {row['layer']} | {row['mode']} | {row['batch']} | {row['times stock']['ours']} | {best} |")
    return "\n".join(lines) + "\n"


def formulas(rows: Sequence[dict[str, Any]]) -> str:
    """The gradient of the kernel by each formula, a line for each layer and batch."""
    found = [row for row in rows if row["mode"] == "filter" and "seconds" in row]
    names = list(dict.fromkeys(row.formula for row in KERNEL_GRADIENT))
    lines = [f"| layer | batch | stock, ms | {' | '.join(names)} |", f"|---|---:|---:|{'---:|' * len(names)}"]
    for row in sorted(found, key=lambda row: (row["layer"], row["batch"])):
        speed = [str(row["times stock"].get(name, "–")) for name in names]
        lines.append(f"| {row['layer']} | {row['batch']} | {1e3 * row['seconds']['stock']:.3g} | {' | '.join(speed)} |")
    return "\n".join(lines) + "\n"
