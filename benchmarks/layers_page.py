"""Tables of docs/layers.md: the choices of formulas, and the results of `benchmarks.layers`."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.page import DOCS, markdown, replace_between
from layers_flax.conv.choices import CONVOLUTION, INFERENCE, KERNEL_GRADIENT

PAGE = DOCS / "layers.md"
BEGIN, END = "<!-- {} by benchmarks.layers -->\n", "<!-- end of {} -->\n"
TABLES = {"convolution": CONVOLUTION, "gradient of the kernel": KERNEL_GRADIENT, "inference": INFERENCE}
SLOWEST = 12


def write_page(rows: Sequence[dict[str, Any]]) -> None:
    """Replaces the tables between their marks; a table without new results stays as it is."""
    tables = {"choices": choices()}
    if any(row["mode"] != "filter" for row in rows):
        tables["speeds"] = speeds(rows)
    if any(row["mode"] == "filter" for row in rows):
        tables["formulas"] = formulas(rows)
    for name, table in tables.items():
        replace_between(PAGE, BEGIN.format(name), END.format(name), table)


def choices() -> str:
    """Returns the tables of `layers_flax.conv.choices`, a line of Markdown for each row."""
    rows = [(name, row.formula, row.fits.__doc__, row.why) for name, table in TABLES.items() for row in table]
    return markdown(("of the", "formula", "layers", "because"), rows, texts=4)


def speeds(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a line for each mode and batch, and a table of the slowest layers."""
    ours = [row for row in rows if "ours" in row["times stock"]]
    cells = []
    for mode, batch in sorted({(row["mode"], row["batch"]) for row in ours}):
        speed = [row["times stock"]["ours"] for row in ours if (row["mode"], row["batch"]) == (mode, batch)]
        spread = min(speed), round(median(speed), 2), max(speed)
        cells.append((mode, batch, len(speed), *spread, sum(s < 0.9 for s in speed)))
    text = markdown(("", "batch", "layers", "least", "median", "most", "below 0.9"), cells)
    if guessed := sum("as of batch" in row for row in ours):
        text += f"\nThe ratio of {guessed} is that of fewer images: with so many the stock one takes too long.\n"
    slowest = []
    for row in sorted(ours, key=lambda row: row["times stock"]["ours"])[:SLOWEST]:
        best = row.get("of the fastest rounds", row["times stock"])["ours"]
        slowest.append((row["layer"], row["mode"], row["batch"], row["times stock"]["ours"], best))
    heads = ("layer", "", "batch", "× stock", "in the fastest rounds")
    return f"{text}\nThe slowest:\n\n{markdown(heads, slowest, texts=2)}"


def formulas(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the speeds of the formulas for the kernel's gradient, a line for each layer and batch."""
    measured = [row for row in rows if row["mode"] == "filter" and "seconds" in row]
    names = list(dict.fromkeys(row.formula for row in KERNEL_GRADIENT))
    cells = []
    for row in sorted(measured, key=lambda row: (row["layer"], row["batch"])):
        speed = [row["times stock"].get(name, "–") for name in names]
        cells.append((row["layer"], row["batch"], f"{1e3 * row['seconds']['stock']:.3g}", *speed))
    return markdown(("layer", "batch", "stock, ms", *names), cells)
