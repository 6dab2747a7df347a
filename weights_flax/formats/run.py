"""The weights of a run: which ones are taken, and the file or the checkpoint that has them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common_flax.check_sums import damage, unsealed

WHICH = ("averaged", "last")
FILES = {"averaged": "model_ema.safetensors", "last": "model.safetensors"}
CONFIG = "config.json"
ABOUT = ("class_names", "normalisation", "image_shape")  # entries of config.json that cards have too


class Checkpoint(NamedTuple):
    """A checkpoint of a run: its step and its folder."""

    step: int
    folder: Path


@dataclass(frozen=True)
class Run:
    """The folder of a run, with what its config.json says of its weights.

    Attributes:
        folder: where config.json is.
        averaged: training averages the weights.
        mark: the run's mark; None in runs of older versions.
        card: the description of the network, as files of weights have it.
    """

    folder: Path
    averaged: bool
    mark: str | None
    card: dict[str, Any]

    def kind(self, which: str | None) -> str:
        """Returns the weights to take: those asked for, else averaged ones if the run has any, else the last step's.

        Raises:
            ValueError: averaged weights are asked for, and the run has none.
        """
        if which == "averaged" and not self.averaged:
            raise ValueError(f"run {str(self.folder)!r} has no averaged weights; it was trained with ema 0")
        return which or ("averaged" if self.averaged else "last")

    def is_current(self, path: Path, card: Mapping[str, Any], kind: str) -> bool:
        """Tells from a file's card if the file is at least as new as the newest checkpoint.

        A run that is extended and then stops has newer checkpoints than files. Files of older versions do not tell
        their step.

        Raises:
            ValueError: the file belongs to another run, or has the other kind of weights.
        """
        about = card.get("run")
        about = about if isinstance(about, Mapping) else {}
        _check_mark(self, f"weights {str(path)!r}", about.get("mark"))
        if about.get("which") not in (None, kind):
            raise ValueError(f"weights {str(path)!r} are the {about['which']} weights, not the {kind} ones")
        newest, step = newest_checkpoint(self.folder), about.get("step")
        if newest is None:
            return True
        return step >= newest.step if isinstance(step, int) else self.mark is None

    def check(self, checkpoint: Checkpoint) -> None:
        """Raises ValueError if a checkpoint is damaged or belongs to another run."""
        name = f"checkpoint {checkpoint.step} of {str(self.folder)!r}"
        wrong = damage(checkpoint.folder)
        if wrong is not None:
            raise ValueError(f"{name} is damaged: {wrong}")
        progress = checkpoint.folder / "progress" / "metadata"
        try:
            stored = json.loads(progress.read_bytes()) if progress.is_file() else {}
        except (OSError, ValueError, RecursionError):
            raise ValueError(f"{name} is damaged: its file progress/metadata cannot be read") from None
        _check_mark(self, name, stored.get("mark") if isinstance(stored, dict) else None)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """Returns the newest checkpoint in a run's folder, whole or damaged; None if there is none."""
    folders = [path for path in (run / "checkpoints").glob("*") if re.fullmatch("[0-9]+", path.name)]
    return max((Checkpoint(int(path.name), path) for path in folders), default=None)


def run_in(folder: Path) -> Run | None:
    """Reads the config.json of a run's folder; returns None if the folder is none of a run.

    Raises:
        ValueError: config.json is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    damaged = ValueError(f"{str(path)!r} is damaged")
    try:
        config = unsealed(json.loads(path.read_bytes()))
    except (OSError, ValueError, AttributeError, RecursionError):
        raise damaged from None
    if "arch" not in config and not (folder / "checkpoints").is_dir():
        return None  # config.json of a folder from the hub
    arch, classes, ema, mark = (config.get(name) for name in ("arch", "num_classes", "ema", "mark"))
    options = config.get("model") or {}
    plain = isinstance(arch, str) and isinstance(classes, int) and isinstance(options, dict)
    if not plain or not isinstance(ema or 0.0, int | float) or not isinstance(mark, str | None):
        raise damaged
    card = {"arch": arch, "options": {name: value for name, value in options.items() if value is not None}}
    card |= {"num_classes": classes, **{name: config[name] for name in ABOUT if config.get(name) is not None}}
    return Run(folder, bool(ema), mark, card)


def origin(card: Mapping[str, Any]) -> str | None:
    """Returns the weights that a card says its file has: "averaged weights after step 45"; None if it does not."""
    run = card.get("run")
    if not isinstance(run, Mapping) or run.get("which") not in WHICH:
        return None
    return f"{run['which']} weights after step {run.get('step')}"


def _check_mark(run: Run, name: str, mark: object) -> None:
    if run.mark is not None and mark not in (None, run.mark):
        raise ValueError(f"{name} belong{'s' * name.startswith('checkpoint')} to another run than {CONFIG} beside it")
