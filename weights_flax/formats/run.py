"""The weights of a run: which ones are taken, and the file or the checkpoint that has them."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from common_flax.check_sums import NAME, damage, unsealed
from common_flax.files import open_regular
from common_flax.json_input import parse_object, read_object, typed

WHICH = ("best", "averaged", "last")  # a run stands for the first of these that it has
FILES = {"best": "model_best.safetensors", "averaged": "model_ema.safetensors", "last": "model.safetensors"}
CONFIG = "config.json"
SUMMARY = "summary.json"
OWN = (*FILES.values(), CONFIG, SUMMARY, "metrics.jsonl")  # files that only train.py writes
ABOUT = ("class_names", "normalisation", "image_shape", "multi_label")  # entries of config.json that cards have too


# Types of entries of config.json, with bounds that no run reaches.
Text = Annotated[str, msgspec.Meta(max_length=2**12)]
NumClasses = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**16)]
Channels = Annotated[int, msgspec.Meta(ge=1, le=2**10)]
Moments = Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=2**10)]


class Normalisation(msgspec.Struct, forbid_unknown_fields=True):
    """The mean and the standard deviation of each channel, for pixels from 0 to 1."""

    mean: Moments
    std: Moments


class Data(msgspec.Struct):
    """The options that open a run's data: entries of config.json, and of "data" in cards."""

    data: Text | None = None
    train_split: Text | None = None
    test_split: Text | None = None
    validation_split: Text | None = None
    test_share: float | None = None
    validation_share: float | None = None
    split_seed: int | None = None
    image_size: Side | None = None
    test_image_size: Side | None = None


DATA: tuple[str, ...] = Data.__struct_fields__


def data_of(options: Any) -> dict[str, Any]:
    """Returns the entry "data" of a card: those options of `Data` that have a value in `options`."""
    values = {name: getattr(options, name) for name in DATA}
    return {name: value for name, value in values.items() if value is not None and (value or name == "split_seed")}


class Stored(msgspec.Struct):
    """The entries of config.json that describe the network and its images."""

    arch: Annotated[str, msgspec.Meta(max_length=100)]
    num_classes: NumClasses
    model: dict[Text, bool | int | float | Text | None] = {}
    ema: float = 0.0
    validation_examples: int | None = None
    mark: Text | None = None
    class_names: tuple[Text, ...] | None = None
    normalisation: Normalisation | None = None
    image_shape: tuple[Side, Side, Channels] | None = None
    multi_label: bool | None = None


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
        validated: training chooses the best weights on a validation part.
        mark: the run's mark; None in runs of older versions.
        card: the description of the network, as files of weights have it.
    """

    folder: Path
    averaged: bool
    validated: bool
    mark: str | None
    card: dict[str, Any]

    def kind(self, which: str | None) -> str:
        """Returns the weights to take: those asked for, else the first of `WHICH` that the run has.

        Best weights are averaged ones too if the run has any.

        Raises:
            ValueError: best or averaged weights are asked for, and the run has none.
        """
        if which == "best" and not self.validated:
            raise ValueError(f"run {str(self.folder)!r} has no best weights; it was trained without a validation part")
        if which == "averaged" and not self.averaged:
            raise ValueError(f"run {str(self.folder)!r} has no averaged weights; it was trained with ema 0")
        if which is None and self.validated and ((self.folder / FILES["best"]).is_file() or self.checkpoint("best")):
            return "best"
        return which or ("averaged" if self.averaged else "last")

    def checkpoint(self, kind: str) -> Checkpoint | None:
        """Returns the checkpoint that has such weights, the best or the newest one, whole or not; None if none has.

        Raises:
            ValueError: the newest checkpoint, which tells the best one, is damaged.
        """
        newest = newest_checkpoint(self.folder)
        if kind != "best" or newest is None:
            return newest
        try:
            step = read_progress(newest).get("best_step")
        except ValueError as error:
            raise ValueError(f"checkpoint {newest.step} of {str(self.folder)!r} is damaged: {error}") from None
        return Checkpoint(step, newest.folder.parent / str(step)) if isinstance(step, int) and step else None

    def is_current(self, path: Path, card: Mapping[str, Any], kind: str) -> bool:
        """Tells from a file's card if the file is at least as new as the checkpoint with such weights.

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
        newest, step = self.checkpoint(kind), about.get("step")
        if newest is None:
            return True
        return step >= newest.step if isinstance(step, int) else self.mark is None

    def check(self, checkpoint: Checkpoint, kind: str) -> None:
        """Raises ValueError if a checkpoint is damaged, belongs to another run, or is older than the run's results."""
        name = f"checkpoint {checkpoint.step} of {str(self.folder)!r}"
        try:
            progress = read_progress(checkpoint)
        except ValueError as error:
            raise ValueError(f"{name} is damaged: {error}") from None
        _check_mark(self, name, progress.get("mark"))
        if kind != "best" and checkpoint.step < (end := self._finished_steps()):
            raise ValueError(f"{name} is not that of the run's end, step {end}, which is missing")

    def _finished_steps(self) -> int:
        """Returns the number of steps in summary.json; 0 if the run is not finished, or the file is damaged."""
        try:
            steps = unsealed(read_object(self.folder / SUMMARY)).get("steps")
        except (OSError, ValueError):
            return 0
        return steps if isinstance(steps, int) else 0


def read_progress(checkpoint: Checkpoint) -> dict[str, Any]:
    """Reads the values of a checkpoint besides its arrays, after a look whether all of its files are whole.

    Raises:
        ValueError: a file is missing or not what was written, or the folder has the number of another step.
    """
    wrong = damage(checkpoint.folder)
    if wrong is not None:
        raise ValueError(wrong)
    try:
        with open_regular(checkpoint.folder / "progress" / "metadata") as file:
            values = parse_object(file.read())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"its file progress/metadata cannot be read: {reason}") from None
    step = values.get("step")
    if step not in (None, checkpoint.step):
        raise ValueError(f"it is checkpoint {step}")
    if step is not None and not (checkpoint.folder / NAME).exists():  # older versions wrote neither
        raise ValueError(f"its file {NAME} is missing")
    return values


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
    try:
        if not path.is_file():
            return None
        config = read_object(path)
        if "arch" not in config and not (folder / "checkpoints").is_dir():
            return None  # config.json of a folder from the hub
        stored, data = typed(config, Stored), typed(config, Data)
        unsealed(config)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        start = f"{str(path)!r} is damaged"
        raise ValueError(str(error) if str(error).startswith(start) else f"{start}: {error}") from None
    options = {name: value for name, value in stored.model.items() if value is not None}
    card: dict[str, Any] = {"arch": stored.arch, "options": options, "num_classes": stored.num_classes}
    card |= {name: config[name] for name in ABOUT if config.get(name) is not None}
    names = {"crop": "test_crop", "crop_rule": "test_crop_rule", "interpolation": "interpolation"}
    seen = {"crop_rule": "centred"} | {name: config[option] for name, option in names.items() if option in config}
    card["data"] = data_of(data)
    if (folder / "split.csv").is_file():  # parts were drawn, by the seed of the run if it has no other
        card["data"]["split_seed"] = config.get("seed") if data.split_seed is None else data.split_seed
    card["preprocessing"] = seen  # older runs have no rule: theirs was the centred one
    return Run(folder, bool(stored.ema), bool(stored.validation_examples), stored.mark, card)


def check_output(what: str, out: Path, read: Iterable[str | Path | None]) -> None:
    """Raises ValueError if a file to write would replace one that is read, or one of a run that is read.

    Args:
        what: the name of the option.
        out: the file to write.
        read: files and folders; None is passed over.
    """
    target = os.path.realpath(out)
    for each in (Path(each) for each in read if each is not None):
        places = [each / name for name in OWN] if each.is_dir() else [each]
        if any(os.path.realpath(place) == target for place in places):
            raise ValueError(f"{what} {str(out)!r} would replace a file that is read; name another")


def check_new_file(what: str, out: Path) -> None:
    """Raises ValueError if a file cannot be made because it is a folder, or because its folder is not there.

    Args:
        what: the name of the option.
        out: the file to write; of a link it is what the link leads to.
    """
    target = Path(os.path.realpath(out))
    if target.is_dir():
        raise ValueError(f"{what} {str(out)!r} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise ValueError(f"{what} {str(out)!r}: there is no folder {str(target.parent)!r}; make it first")


def origin(card: Mapping[str, Any]) -> str | None:
    """Returns the weights that a card says its file has: "averaged weights after step 45"; None if it does not."""
    run = card.get("run")
    if not isinstance(run, Mapping) or run.get("which") not in WHICH:
        return None
    return f"{run['which']} weights" + (f" after step {run['step']}" if isinstance(run.get("step"), int) else "")


def _check_mark(run: Run, name: str, mark: object) -> None:
    if run.mark is not None and mark not in (None, run.mark):
        raise ValueError(f"{name} belong{'s' * name.startswith('checkpoint')} to another run than {CONFIG} beside it")
