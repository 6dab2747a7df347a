"""The config.json of a run: the values that are written, and their checks when they are read."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from common_flax.check_sums import KEY, unsealed
from common_flax.checks import one_of
from common_flax.files import open_regular, user_path
from common_flax.json_input import read_object, shortened, typed
from training_flax.augment.registry import current_names
from training_flax.config.checks import check_values
from training_flax.config.config import (
    BEFORE,
    MODEL,
    OLD_NAMES,
    RUN,
    ResolvedConfig,
    TrainConfig,
    build_network,
    reaching,
)
from training_flax.config.recipes import RECIPES
from training_flax.config.schema import FACTS, Machine, schema, stored_options
from training_flax.data.dataset import Dataset
from training_flax.data.source import sum_of_files
from weights_flax.formats.run import CONFIG
from weights_flax.io.archs import constructor_options

FILE = CONFIG
LONGEST = 400  # characters of an error
NEEDED = ("arch", "recipe", "batch_size", "lr")  # the options without a default
PARTS = ("train", "test", "validation")
FILES = tuple(f"{part}_{what}" for what in ("files", "bytes", "labels") for part in PARTS)
SUMS = tuple(f"{part}_sum" for part in PARTS)
OWN = ("own_loss", "own_optimizer")
SEVERAL = "multi_label"  # true where an image may have several classes; runs of one class an image have no such entry
# Entries of runs to which a user passed more than a config.
OF_FIT = (*OWN, "callbacks", "unused_options", "resumption", "pixels")
# Entries of FACTS that no reader needs.
MAY_LACK = (
    *(*FILES, *SUMS, *OF_FIT),
    *("validation_examples", "weights_sum", "versions", "mark", "lengths", "random", "machine", SEVERAL),
)


@dataclass(frozen=True)
class RunConfig:
    """The contents of a run's config.json, checked.

    Attributes:
        options: the options; those that never change a run's numbers have their defaults.
        class_names: names of the classes, in order.
        train_examples, test_examples: the numbers of images.
        image_shape: (height, width, channels) of the images that the network sees in training.
        mean, std: the normalisation of pixels from 0 to 1, channel by channel.
        pixels: the run saw pixels; False for values that the user had normalised himself.
        mark: the mark of the run; None in runs of older versions.
        multi_label: an image may have none, one or several classes.
        machine: where the data are on the machine that the run began on.
    """

    options: ResolvedConfig
    class_names: tuple[str, ...]
    train_examples: int
    test_examples: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mark: str | None
    pixels: bool = True
    multi_label: bool = False
    machine: Machine = field(default_factory=Machine)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def numbers_options(config: TrainConfig, dataset: Dataset, own: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns everything that a run's numbers depend on: resolved options, classes, normalisation, versions.

    `own` are the names of a loss and an optimizer of the user's, as the entries of `OWN`.
    """
    values = {name: value for name, value in asdict(config).items() if name not in reaching(RUN) + reaching(MODEL)}
    values["model"] = {name: getattr(config, name) for name in reaching(MODEL)}
    values["num_classes"] = len(dataset.class_names)
    values["class_names"] = dataset.class_names
    values |= {SEVERAL: True} if dataset.multi_label else {}
    values["train_examples"] = dataset.train.examples
    values["test_examples"] = dataset.test.examples
    if dataset.validation is not None:
        values["validation_examples"] = dataset.validation.examples
    files = {name: getattr(dataset, name) for name in (*FILES, *SUMS)}
    files |= {"weights_sum": _sum_of_weights(config.weights)}
    values |= {name: listed for name, listed in files.items() if listed is not None}
    values |= own or {}
    values["image_shape"] = dataset.image_shape
    values["normalisation"] = {"mean": dataset.mean, "std": dataset.std}
    values["versions"] = {name: version(name) for name in ("jax", "flax", "optax")}
    return values


def _sum_of_weights(source: str | None) -> str | None:
    """Returns a hash of a file of weights, or of the names and sizes of files in a folder; None where none is there."""
    path = None if source is None else user_path(source)
    if path is None or not path.exists():  # an address of the hub, or weights that a run no longer needs
        return None
    if path.is_dir():
        below = sorted(file for file in path.rglob("*") if file.is_file())
        return sum_of_files(f"{file.relative_to(path)} {file.stat().st_size}" for file in below)
    found = path.stat()
    return _sum_of_file(path, found.st_size, found.st_mtime_ns)


@cache
def _sum_of_file(path: Path, size: int, changed: int) -> str | None:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()[:16]
    except OSError:  # the reader of weights says so
        return None


def check_bounds(values: Mapping[str, Any]) -> None:
    """Raises ValueError, which names the option, if one has a value that no config.json may have."""
    typed(plain(values), schema())


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts values to JSON's types, as reading the file again would."""
    return json.loads(json.dumps(values, default=str))


def is_run(folder: Path | str) -> bool:
    """Tells if a folder has a config.json that may be read."""
    path = Path(folder, FILE)
    return os.access(path, os.R_OK) and path.is_file()


def read_config(run: Path | str) -> dict[str, Any]:
    """Reads the values of a run's config.json under the current names of options.

    A run that is older than an option had the option's default; other entries that an older run lacks stay missing.

    Raises:
        ValueError: `'RUN/config.json' is damaged: …`, one line that names the field; or there is no such file.
    """
    path = Path(run, FILE)
    try:
        values = read_object(path)
    except FileNotFoundError:
        raise ValueError(f"{str(run)!r} is no run: it has no config.json") from None
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    try:
        current = _current(values)
        typed(current, schema())
        _check(current)
        unsealed(values)  # last, because the checks before can name the field
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {shortened(str(error), LONGEST)}") from None
    return _defaults() | current | {"model": dict.fromkeys(reaching(MODEL)) | current.get("model", {})}


def read_run_config(run: Path) -> RunConfig:
    """Reads a run's config.json.

    Raises:
        ValueError: as `read_config`; or an entry that the network and its images need is missing.
    """
    values = read_config(run)
    missing = [name for name in (*NEEDED, *FACTS) if name not in values and name not in MAY_LACK]
    if missing:
        raise ValueError(f"{str(run / FILE)!r} is damaged: {missing[0]} is missing")
    stored = typed(values, schema())
    options = {name: getattr(stored, name) for name in stored_options()} | values["model"]
    return RunConfig(
        options=ResolvedConfig(**options, num_classes=stored.num_classes),
        class_names=stored.class_names,
        train_examples=stored.train_examples,
        test_examples=stored.test_examples,
        image_shape=stored.image_shape,
        mean=stored.normalisation.mean,
        std=stored.normalisation.std,
        mark=stored.mark,
        pixels=stored.pixels is not False,
        multi_label=bool(stored.multi_label),
        machine=stored.machine or Machine(),
    )


def _defaults() -> dict[str, Any]:
    """Returns the values of the options that an older run may lack."""
    defaults = {option.name: option.default for option in fields(ResolvedConfig) if option.default is not MISSING}
    return plain({name: defaults[name] for name in stored_options() if name in defaults} | BEFORE)


def _current(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values, without their check sum, under the current names of options and augmentations."""
    values = _renamed({name: value for name, value in values.items() if name != KEY})
    if isinstance(model := values.get("model"), dict):
        values["model"] = _renamed(model)
    if isinstance(augment := values.get("augment"), list):
        values["augment"] = [*current_names(augment)] if all(isinstance(name, str) for name in augment) else augment
    return values


def _renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    for old in options.keys() & OLD_NAMES:
        if OLD_NAMES[old] in options:
            raise ValueError(f"{old} and {OLD_NAMES[old]} are one option, and both are given")
    return {OLD_NAMES.get(name, name): value for name, value in options.items()}


def _check(values: Mapping[str, Any]) -> None:
    """Raises ValueError unless the values, right in their types, are allowed and fit each other."""
    if "arch" not in values:
        raise ValueError("arch is missing")
    check_values(values)
    if "recipe" in values:
        one_of("recipe", values["recipe"], RECIPES)
    names, classes = values.get("class_names"), values.get("num_classes")
    if names is not None and classes is not None and len(names) != classes:
        raise ValueError(f"class_names must be num_classes, {classes}; given {len(names)}")
    moments = values.get("normalisation", {})
    check_values(moments)
    channels = values.get("image_shape", [None])[-1]
    for place, entries in (("normalisation.", moments), ("", values)):
        for name in ("mean", "std"):
            numbers = entries.get(name)
            if numbers is not None and channels is not None and len(numbers) != channels:
                raise ValueError(f"{place}{name} must be {channels} numbers, one for each channel; given {numbers}")
    _check_network(values["arch"], values.get("model", {}), values.get("dtype", "float32"), classes)


def _check_network(arch: str, model: Mapping[str, Any], dtype: str, classes: int | None) -> None:
    """Raises ValueError unless the architecture has the options, and allows their values."""
    check_model_options(arch, model)
    build_network(TrainConfig(arch, dtype=dtype, **model), classes or 1)


def check_model_options(arch: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for an option, which is not None, that an architecture does not have."""
    known = [name for name in reaching(MODEL) if name in constructor_options(arch)]
    for name, value in options.items():
        if value is not None and name not in known:
            raise ValueError(f"{arch} has no option {name}; it has {', '.join(known)}; given {value!r}")
