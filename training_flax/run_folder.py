"""The folder of a run: what a user finds there, and how it is written."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from training_flax.config import TrainConfig
from training_flax.data import Dataset


def new_run_path(config: TrainConfig) -> Path:
    """Where the run of `config` goes: `config.out`, or a name under runs/ that nothing has yet. Nothing is written.

    Raises:
        ValueError: something is there already.
    """
    if config.out is None:
        stem = f"runs/{config.arch}-{config.data}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = [stem] + [f"{stem}-{i}" for i in range(2, 1000)]
        return next(Path(name) for name in names if not Path(name).exists())
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out {str(out)!r} is not a folder; name a new one")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"out {str(out)!r} is not empty, and a run is never overwritten; name a new folder")
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"out {str(out)!r} cannot be made: {str(parent)!r} is no folder that may be written to")
    return out


def write_config(run: Path, config: TrainConfig, dataset: Dataset) -> None:
    """config.json: the options as they were resolved, the data's classes and normalisation, the versions used."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    values["num_classes"] = len(dataset.class_names)
    values["class_names"] = dataset.class_names
    values["image_shape"] = dataset.train.images.shape[1:]
    values["normalisation"] = {"mean": dataset.mean, "std": dataset.std}
    values["versions"] = {name: version(name) for name in ("jax", "flax", "optax")}
    write_json(run / "config.json", values)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes `values` whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(values, indent=2) + "\n")
    unfinished.replace(path)


def append_metrics(run: Path, values: Mapping[str, Any]) -> None:
    """Adds a line to metrics.jsonl."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(values) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_weights(run: Path, tensors: Mapping[str, np.ndarray], config: TrainConfig, dataset: Dataset) -> None:
    """model.safetensors: parameters and statistics under PyTorch's names and layouts, so that either side reads them.

    Its metadata say what they belong to: architecture, classes, normalisation. They are one entry, in JSON:
    safetensors writes several in no fixed order, and the same weights would not give the same file.
    """
    model = {
        "arch": config.arch,
        "num_classes": len(dataset.class_names),
        "class_names": dataset.class_names,
        "normalisation": {"mean": dataset.mean, "std": dataset.std},
    }
    unfinished = run / "model.safetensors.unfinished"
    save_file(dict(tensors), unfinished, {"model": json.dumps(model)})
    unfinished.replace(run / "model.safetensors")
