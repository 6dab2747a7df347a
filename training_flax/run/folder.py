"""The folder of a run: what a user finds there, how it is written, and whether a run may go on in it."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from common_flax.errors import one_line
from common_flax.files import whole_file
from training_flax.config.config import MODEL, RUN, TrainConfig, reaching
from training_flax.config.recipes import DEFAULTS
from training_flax.data.dataset import Dataset
from training_flax.runtime.signals import RunError

LENGTH = ("epochs", "steps")


def run_path(config: TrainConfig, dataset: Dataset, *, extend: bool = False) -> Path:
    """Where the run of `config` goes: `config.out`, or a name under runs/ that nothing has yet. Nothing is written.

    Args:
        config: nothing is open in it that a recipe has.
        dataset: its data.
        extend: a run that is there already may be made longer.

    Raises:
        ValueError: something else than this very run is there already, or nothing can be written there.
    """
    if config.out is None and jax.process_count() > 1:
        raise ValueError(f"out must be given to {jax.process_count()} processes: each would name another folder")
    if config.out is None:
        data = config.data.partition(":")[0]
        stem = f"runs/{config.arch}-{data}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = [stem] + [f"{stem}-{i}" for i in range(2, 1000)]
        return next(Path(name) for name in names if not Path(name).exists())
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out {str(out)!r} is not a folder; name a new one")
    parent = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"out {str(out)!r} cannot be made: {str(parent)!r} is no folder that may be written to")
    if out.is_dir() and {path.name for path in out.iterdir()} - {LOCK}:
        _check_same_run(out, describe(config, dataset), extend)
    return out


def checkpoint_steps(run: Path) -> list[int]:
    """The steps whose checkpoints a run has, whole or damaged."""
    folder = run / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def _check_same_run(out: Path, wanted: dict[str, Any], extend: bool) -> None:
    """Raises ValueError unless the run in `out` is the one described."""
    if not (out / "config.json").is_file():
        raise ValueError(f"out {str(out)!r} is not empty, and holds no run to go on with; name a new folder")
    try:
        found = json.loads((out / "config.json").read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"out {str(out)!r} has a damaged config.json; name a new folder")
    ignored = {"versions", *(LENGTH if extend else ())}
    # A run of before an option came was what the option's default says.
    there, now = _plain(asdict(DEFAULTS)) | _options_in_line(found), _options_in_line(_plain(wanted))
    differing = [
        f"{name} ({there.get(name)!r} there, {now.get(name)!r} now)"
        for name in now
        if name not in ignored and there.get(name) != now.get(name)
    ]
    if differing:
        hint = ""
        if not extend and all(item.split(" ")[0] in LENGTH for item in differing):
            hint = "; --extend makes a run longer"
        raise ValueError(f"out {str(out)!r} holds another run, which differs in {', '.join(differing)}{hint}")
    if extend:
        for name in LENGTH:
            before, now = found.get(name), wanted[name]
            if before and now and now < before:
                raise ValueError(f"extend makes a run longer; {name} was {before}; given {now}")


def _options_in_line(values: Mapping[str, Any]) -> dict[str, Any]:
    """What makes up a run, its model's options among the others; an option that is not there is as one that is None."""
    model = values.get("model")
    options = model.items() if isinstance(model, Mapping) else ()
    return {
        **{name: value for name, value in values.items() if name != "model"},
        **{f"model {k}": v for k, v in options},
    }


def describe(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """What makes up the numbers of a run: options as they were resolved, classes, normalisation, versions."""
    values = {name: value for name, value in asdict(config).items() if name not in reaching(RUN) + reaching(MODEL)}
    values["model"] = {name: getattr(config, name) for name in reaching(MODEL)}
    values["num_classes"] = len(dataset.class_names)
    values["class_names"] = dataset.class_names
    values["train_examples"] = len(dataset.train.labels)
    values["test_examples"] = len(dataset.test.labels)
    values["image_shape"] = dataset.image_shape
    values["normalisation"] = {"mean": dataset.mean, "std": dataset.std}
    values["versions"] = {name: version(name) for name in ("jax", "flax", "optax")}
    return values


def write_config(run: Path, config: TrainConfig, dataset: Dataset) -> None:
    """config.json: what `describe` says."""
    write_json(run / "config.json", _plain(describe(config, dataset)))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    return json.loads(json.dumps(values, default=str))


LOCK = ".lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Makes the run's folder, and keeps other processes out of it for as long as this is entered.

    Raises:
        ValueError: another process trains in it, or it cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out {str(run)!r} cannot be made: {error.strerror}") from None
    with (run / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"out {str(run)!r} is in use by another process that trains") from None
        yield


@contextmanager
def written_to(run: Path) -> Iterator[None]:
    """Whatever cannot be written to a run that has begun, or read from it, ends it with one line."""
    try:
        yield
    except OSError as error:
        raise RunError(f"run {str(run)!r} cannot be written or read: {one_line(error)}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes `values` whole or not at all."""
    with whole_file(path) as file:
        file.write_text(json.dumps(values, indent=2) + "\n")


def append_metrics(run: Path, values: Mapping[str, Any]) -> None:
    """Adds a line to metrics.jsonl."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(values) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last one that was cut off is left out.

    Raises:
        RunError: a line is damaged.
    """
    path = run / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict) or not {"split", "step"} <= values.keys():
            raise RunError(f"line {number} of {str(path)!r} is damaged; without it the run can go on")
        found.append(values)
    return found


def rewind_metrics(run: Path, step: int, evaluated: int) -> None:
    """Drops the lines of metrics.jsonl that a run which goes on after `step` will write anew."""
    last = {"train": step}
    lines = [line for line in read_metrics(run) if line["step"] <= last.get(line["split"], evaluated)]
    with whole_file(run / "metrics.jsonl") as file:
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
