"""Runs beside each other: a table on the terminal, and a picture of their curves.

python -m training_flax.compare runs/first runs/second --out compare.png
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common_flax.palette import COLOURS
from training_flax.run.folder import read_metrics
from training_flax.runtime.signals import RunError

LINES = ("-", "--", "-.", ":")  # one for each round through the colours
AVERAGED = "test of averaged weights"
# What config.json says beside options: it follows from the data, or changes no number.
NOT_OPTIONS = {
    *("num_classes", "class_names", "train_examples", "test_examples"),
    *("image_shape", "normalisation", "versions"),
}


@dataclass(frozen=True)
class Run:
    """What the folder of a run says, finished or not.

    Attributes:
        name: what to call it.
        options: those of config.json, the network's own among them.
        metrics: the lines of metrics.jsonl.
        summary: what summary.json holds; empty until the run has come to its end.
    """

    name: str
    options: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]

    def curve(self, split: str, name: str) -> tuple[list[float], list[float]]:
        """Epochs, and the values of a metric at them; steps whose gradient was not finite have none."""
        lines = [line for line in self.metrics if line["split"] == split and line.get(name) is not None]
        return [line["epoch"] for line in lines], [line[name] for line in lines]


def read_run(folder: Path) -> Run:
    """The run in `folder`.

    Raises:
        ValueError: there is none, or one of its files is damaged.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{str(folder)!r} is no run: it has no config.json")
    config, summary = _read_json(folder / "config.json"), {}
    if (folder / "summary.json").exists():
        summary = _read_json(folder / "summary.json")
    try:
        metrics = read_metrics(folder)
    except RunError:
        raise ValueError(f"{str(folder / 'metrics.jsonl')!r} is damaged") from None
    options = {name: value for name, value in config.items() if name not in NOT_OPTIONS | {"model"}}
    return Run(folder.resolve().name, options | config.get("model", {}), metrics, summary)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"{str(path)!r} is damaged")
    return values


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders`; those whose folders have the same name are called by the path that was given.

    Raises:
        ValueError: as `read_run`.
    """
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    return [
        Run(str(folder), run.options, run.metrics, run.summary) if names.count(run.name) > 1 else run
        for folder, run in zip(folders, runs, strict=True)
    ]


def differing_options(runs: Sequence[Run]) -> list[str]:
    """Names of the options, but for the architecture, that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.options if name != "arch")
    return [name for name in names if any(run.options.get(name) != runs[0].options.get(name) for run in runs)]


def tabulate(runs: Sequence[Run]) -> str:
    """The table: a line for each run, under a line of headings.

    Accuracies are those of the last step's weights, from metrics.jsonl: the best and the last one, and the last one of
    the averaged weights where a run has any. What a run does not know yet is a dash.
    """
    options = differing_options(runs)
    averaged = any(run.curve(AVERAGED, "accuracy")[1] for run in runs)
    head = ["run", "arch", *options, "parameters", "steps", "best test", "last test"]
    head += ["averaged"] * averaged + ["images/s", "train time"]
    rows = [head]
    for run in runs:
        accuracies = run.curve("test", "accuracy")[1]
        speeds = run.curve("train", "images_per_second")[1]
        speed = run.summary.get("images_per_second", statistics.median(speeds) if speeds else None)
        row = [run.name, run.options.get("arch"), *(run.options.get(name) for name in options)]
        row += [_form(run.summary.get("parameters"), "{:,}"), max((line["step"] for line in run.metrics), default=None)]
        row += [_percent(max(accuracies, default=None)), _percent(_last(accuracies))]
        row += [_percent(_last(run.curve(AVERAGED, "accuracy")[1]))] * averaged
        row += [_form(speed, "{:,.0f}"), _form(run.summary.get("train_seconds"), "{:,.0f} s")]
        rows.append([_cell(value) for value in row])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = 2 + len(options)  # names stand to the left, numbers to the right
    lines = [
        "  ".join(f"{cell:{'<' if i < words else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None


def _form(value: float | None, form: str) -> str | None:
    return None if value is None else form.format(value)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f} %"


def _cell(value: Any) -> str:
    """An option as the command line takes it."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return " ".join(map(_cell, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def draw_comparison(path: Path, runs: Sequence[Run]) -> None:
    """Train loss and test error of all runs against epochs; open circles are the averaged weights.

    Raises:
        ValueError: nothing can be written to `path`, or its extension is no picture's.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    losses, errors = figure.subplots(1, 2)
    for i, run in enumerate(runs):
        line: dict[str, Any] = dict(color=COLOURS[i % len(COLOURS)], ls=LINES[i // len(COLOURS) % len(LINES)])
        losses.plot(*run.curve("train", "loss"), lw=1.2, label=run.name, **line)
        for split, style in (("test", dict(lw=2, marker="o", ms=4)), (AVERAGED, dict(lw=1, marker="o", ms=5, mfc="w"))):
            epochs, accuracies = run.curve(split, "accuracy")
            errors.plot(epochs, [100 * (1 - accuracy) for accuracy in accuracies], **style, **line)
    losses.set(xlabel="epoch", ylabel="train loss (nats)", yscale="log")
    errors.set(xlabel="epoch", ylabel="test error (%)", ylim=(0, None))
    for axes in (losses, errors):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=_columns(run.name for run in runs))
    try:
        figure.savefig(path, dpi=120, format=path.suffix[1:] or "png")
    except OSError as error:
        raise ValueError(f"out {str(path)!r} cannot be written: {error.strerror or error}") from None


def _columns(names: Iterable[str]) -> int:
    """Names that fit side by side under the picture."""
    return max(1, 120 // (8 + max(map(len, names))))


class Parser(argparse.ArgumentParser):
    """One that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        self.exit(2, f"compare: error: {message}\n")


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; gives the exit code: 2 for wrong input."""
    parser = Parser(prog="python -m training_flax.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    parser.add_argument("--out", type=Path, default=Path("compare.png"), help="picture to write; compare.png")
    options = parser.parse_args(arguments)
    try:
        runs = read_runs(options.runs)
        draw_comparison(options.out, runs)
    except ValueError as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 2
    print(tabulate(runs))
    print(f"curves are in {options.out}")
    return 0
