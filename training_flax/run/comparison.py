"""Comparison of runs: a table on the terminal, and a picture of their curves."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from common_flax.command_line import parse_options, run_command
from common_flax.files import save_figure
from common_flax.palette import COLOURS
from common_flax.terminal import as_label, say, visible
from training_flax.config.run_config import FACTS, OWN, read_config
from training_flax.plots.curves import MEAN, label_axes
from training_flax.run.metrics import METRICS, read_metrics
from training_flax.run.summary import has_its_metrics, read_summary
from training_flax.runtime.signals import RunError
from weights_flax.formats.run import check_output

LINES = ("-", "--", "-.", ":")  # line styles, for more runs than colours
AVERAGED = "test of averaged weights"
BEST = "test of best weights"
# Entries of config.json that are no options: they follow from the data, or change no number.
NOT_OPTIONS = {*FACTS} - {*OWN}


@dataclass(frozen=True)
class Run:
    """The contents of a run's folder, finished or not.

    Attributes:
        name: the run's name in table and picture.
        options: the options in config.json, with those of the network.
        metrics: the lines of metrics.jsonl.
        summary: the contents of summary.json; empty until the run has finished.
    """

    name: str
    options: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def watched(self) -> str:
        """The part that is looked at after each epoch: "validation", or else "test"."""
        return "validation" if any(line["split"] == "validation" for line in self.metrics) else "test"

    @property
    def averaged(self) -> str:
        """The name of this part's entries of averaged weights."""
        return AVERAGED.replace("test", self.watched)

    def curve(self, split: str, name: str) -> tuple[list[float], list[float]]:
        """Returns epochs and the values of a metric, without lines that have no finite value."""
        lines = [line for line in self.metrics if line["split"] == split and line.get(name) is not None]
        return [line["epoch"] for line in lines], [line[name] for line in lines]


def read_run(folder: Path) -> Run:
    """Reads the run in `folder`; raises ValueError if there is no run, or one of its files is damaged."""
    config, summary = read_config(folder), read_summary(folder)
    try:
        metrics = read_metrics(folder)
    except RunError:
        raise ValueError(f"{str(folder / METRICS)!r} is damaged") from None
    except OSError as error:
        raise ValueError(f"{str(folder / METRICS)!r} is damaged: {error.strerror or error}") from None
    longer = any(line["step"] > summary.get("steps", 0) for line in metrics)  # a run that is being extended
    if not longer and not has_its_metrics(folder, summary):
        raise ValueError(f"{str(folder / METRICS)!r} is missing, or not what was written")
    options = {name: value for name, value in config.items() if name not in NOT_OPTIONS | {"model"}}
    options |= config["model"]
    if not options.get("ema"):
        options.pop("ema_warmup", None)  # of no average
    return Run(folder.resolve().name, options, metrics, summary)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads the runs in `folders` as `read_run`; runs in folders with equal names are named by their paths."""
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    return [
        replace(run, name=str(folder)) if names.count(run.name) > 1 else run
        for folder, run in zip(folders, runs, strict=True)
    ]


def differing_options(runs: Sequence[Run]) -> list[str]:
    """Returns the names of the options that differ between runs, without the architecture."""
    names = dict.fromkeys(name for run in runs for name in run.options if name != "arch")
    return [name for name in names if any(run.options.get(name) != runs[0].options.get(name) for run in runs)]


def tabulate(runs: Sequence[Run]) -> str:
    """Formats the table: headings, and a line for each run.

    Accuracies are from metrics.jsonl: the best and the last one of the weights, and the last one of the averaged
    weights if a run has any, on the test part, or on the validation part of a run that has one; and then that of the
    best weights on the test part. Of images that may have several classes there is the best mean average precision, on
    the part that is looked at. A dash stands for values that a run does not have yet.
    """
    options = differing_options(runs)
    averaged = any(run.curve(run.averaged, "accuracy")[1] for run in runs)
    parts = [part for part in ("test", "validation") if any(run.watched == part for run in runs)]
    head = ["run", "arch", *map(visible, options), "parameters", "steps"]
    head += [f"{which} {part}" for part in parts for which in ("best", "last")] + ["averaged"] * averaged
    scored = any(run.curve(run.watched, MEAN)[1] for run in runs)
    head += ["test"] * ("validation" in parts) + ["best mean AP"] * scored + ["images/s", "train time"]
    rows = [head]
    for run in runs:
        speeds = run.curve("train", "images_per_second")[1]
        speed = run.summary.get("images_per_second", statistics.median(speeds) if speeds else None)
        last_step = max((line["step"] for line in run.metrics), default=None)
        row = [run.name, *(_cell(run.options.get(name)) for name in ("arch", *options))]
        row += [_cell(run.summary.get("parameters"), "{:,}"), _cell(last_step)]
        for part in parts:
            accuracies = run.curve(part, "accuracy")[1]
            row += [_percent(sorted(accuracies)[-1:]), _percent(accuracies[-1:])]
        row += [_percent(run.curve(run.averaged, "accuracy")[1][-1:])] * averaged
        row += [_percent(run.curve(BEST, "accuracy")[1][-1:])] * ("validation" in parts)
        row += [_percent(sorted(run.curve(run.watched, MEAN)[1])[-1:])] * scored
        row += [_cell(speed, "{:,.0f}"), _cell(run.summary.get("train_seconds"), "{:,.0f} s")]
        rows.append([visible(cell) for cell in row])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = 2 + len(options)  # columns of words are aligned left, numbers right
    forms = [f"{'<' if i < words else '>'}{width}" for i, width in enumerate(widths)]
    return "\n".join("  ".join(map(format, row, forms)).rstrip() for row in rows)


def _percent(shares: Sequence[float]) -> str:
    """Formats a list of one share, or of none."""
    return f"{100 * shares[0]:.2f} %" if shares else "–"


def _cell(value: Any, form: str = "{}") -> str:
    """Formats a number by `form`, or an option as on the command line."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return " ".join(map(_cell, value)) or "none"
    return f"{value:g}" if isinstance(value, float) and form == "{}" else form.format(value)


def draw_comparison(path: Path, runs: Sequence[Run]) -> None:
    """Draws train loss and test or validation error of all runs against epochs; open circles are averaged weights.

    Raises ValueError if the file cannot be written, or its extension is no format for pictures.
    """
    from matplotlib.figure import Figure  # slow to import, and only pictures need matplotlib

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    losses, errors = figure.subplots(1, 2)
    for i, run in enumerate(runs):
        line: dict[str, Any] = dict(color=COLOURS[i % len(COLOURS)], ls=LINES[i // len(COLOURS) % len(LINES)])
        losses.plot(*run.curve("train", "loss"), lw=1.2, label=str(i), **line)
        filled, open_ = dict(lw=2, marker="o", ms=4), dict(lw=1, marker="o", ms=5, mfc="w")
        for split, style in ((run.watched, filled), (run.averaged, open_)):
            epochs, accuracies = run.curve(split, "accuracy")
            errors.plot(epochs, [100 * (1 - accuracy) for accuracy in accuracies], **style, **line)
    parts = " or ".join(dict.fromkeys(run.watched for run in runs))
    label_axes(losses, errors, "train loss (nats)", f"{parts or 'test'} error (%)")
    names = [as_label(run.name) for run in runs]
    legend = figure.legend(loc="outside lower center", ncols=max(1, 120 // (8 + max(map(len, names)))))
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)  # as labels of lines, names that begin with _ would be left out
    try:
        save_figure(figure, path)
    except OSError as error:
        raise ValueError(f"out {str(path)!r} cannot be written: {error.strerror or error}") from None


@dataclass(frozen=True)
class Compare:
    """The runs to compare, and the picture."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")]
    """Folders of runs, finished or not."""
    out: Path = Path("compare.png")
    """Picture to write."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit code: 2 for wrong input."""
    return run_command("compare", lambda: compare(arguments))


def compare(arguments: Sequence[str]) -> None:
    """Parses the command line, prints the table and writes the picture."""
    purpose = "Compares runs: a table on the terminal, and a picture of their curves."
    options = parse_options(Compare, arguments, prog="python -m training_flax.compare", description=purpose)
    if not options.runs:  # tyro accepts an empty list
        raise ValueError("the following arguments are required: RUN")
    check_output("out", options.out, options.runs)
    runs = read_runs(options.runs)
    draw_comparison(options.out, runs)
    say(*tabulate(runs).split("\n"))
    say(f"curves are in {options.out}")
