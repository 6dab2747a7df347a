"""Published weights as text: a table of their names, and all facts of one of them."""

from typing import Any

from weights_flax.io.published import Published, cache_folder, table

HEAD = ("name", "network", "pixels", "crop", "interpolation", "top-1", "top-5", "licence")
WORDS = (0, 1, 4, 7)  # columns that are aligned left


def tabulate(arch: str | None = None) -> list[str]:
    """Returns the lines of a table of published weights, with a dash for what a library does not tell.

    Args:
        arch: the architecture; None is all of them.
    """
    rows = [row for row in table().rows if arch in (None, row.arch)]
    sources = " and ".join(f"{name} {library.version}" for name, library in table().libraries.items())
    if not rows:
        return [f"{sources} publish no weights of {arch}"]
    cells = [HEAD, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    forms = [f"{'<' if number in WORDS else '>'}{width}" for number, width in enumerate(widths)]
    lines = ["  ".join(map(format, row, forms)).rstrip() for row in cells]
    shown = {row.name for row in rows}
    short = [f"{name} is {full}" for name, full in table().defaults.items() if full in shown and "_Weights" not in name]
    lines += ["", *short] if arch else []
    return [
        *lines,
        "",
        f"{len(rows)} sets of weights of {sources} (no accuracies in its package); kept in {cache_folder()}",
    ]


def _cells(row: Published) -> tuple[str, ...]:
    accuracies = ["–" if share is None else f"{share:.2f} %" for share in (row.top1, row.top5)]
    seen = (str(row.image_size), f"{row.crop:.3f}", row.interpolation)
    return (row.name, row.arch, *seen, *accuracies, row.licence or "–")


def facts(row: Published) -> list[str]:
    """Returns a line for each fact of published weights."""
    told: dict[str, Any] = {
        "name": row.name,
        "network": row.arch,
        "address": row.address,
        "hash": f"SHA-256 begins with {row.sha256}" if row.sha256 else "SHA-256 as the server tells it with the file",
        "file": cache_folder() / row.file,
        "mean": " ".join(f"{value:g}" for value in row.mean),
        "std": " ".join(f"{value:g}" for value in row.std),
        "images": f"{row.image_size} pixels, crop {row.crop:.4g} as {row.crop_rule} rounds it, {row.interpolation}",
        "accuracy": f"top-1 {row.top1} %, top-5 {row.top5} %" if row.top1 else "not in the package of its library",
        "licence": row.licence or "its library tells none of the weights",
        "classes": f"{len(table().classes):,} of ImageNet: {', '.join(table().classes[:3])}, …",
    }
    return [f"{title:9} {value}" for title, value in told.items()]
