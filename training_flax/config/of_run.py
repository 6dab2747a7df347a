"""A run that knows itself: its options come from its config.json, and those given beside them must agree."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from common_flax.files import user_path
from common_flax.json_input import shortened
from training_flax.augment.registry import current_names
from training_flax.config.checks import check
from training_flax.config.config import MODEL, RUN, TrainConfig, reaching
from training_flax.config.run_config import RunConfig, check_model_options, is_run, read_run_config
from weights_flax import read_card
from weights_flax.formats.run import DATA
from weights_flax.io.archs import ARCHS

LONGEST_TEXT = 2**12  # characters of an entry of config.json
LENGTH = ("epochs", "steps")
ENDS = (*LENGTH, "patience")  # options that only tell when a run ends
ADDRESSES = ("data", "weights")  # the same content may be somewhere else, which `run_path` tells
LONGEST = 180  # characters of an error, so that a line with the command's name has at most 200
# Fields that an error shows, characters of a value, and of the folder: the first that are short enough are taken.
SHOWN = ((3, 24, 60), (3, 24, 30), (3, 16, 24), (3, 10, 20), (3, 6, 16), (2, 10, 16), (1, 8, 16))


class Difference(NamedTuple):
    """An option, or an entry of config.json, that differs: its name, its value in the run, and the one now."""

    name: str
    there: Any
    now: Any


def options_of_run(config: TrainConfig, *, extend: bool = False, hint: str = "") -> TrainConfig:
    """Fills in the options that are None from the run in `config.out`; without a run there, they stay None.

    Options that never change a run's numbers stay as they are, but for the place of the data: the run's own is taken
    where none is given, from whatever folder the command is called.

    Args:
        config: the options that are given.
        extend: allow another length, which then must be given.
        hint: the end of the line that tells differences.

    Raises:
        ValueError: an option is given that differs from the run's, which is told in at most 200 characters; config.json
            is damaged; a run is to be extended, and no length is given; or there is neither a run nor an architecture.
    """
    if config.out is None or not is_run(config.out):
        if config.arch is None and config.out is not None:
            raise ValueError(f"out {str(config.out)!r} holds no run to go on with, and a new one needs arch (--arch)")
        return config
    out = Path(config.out)
    run = _run_in(out)
    stored = {option.name: getattr(run.options, option.name) for option in fields(config)}
    given = {option.name: value for option in fields(config) if (value := getattr(config, option.name)) is not None}
    if extend:
        _check_longer(run, config)
    if differing := list(_differing(stored, given, extend)):
        longer = not extend and all(each.name in ENDS for each in differing)
        raise ValueError(another_run(out, differing, "; --extend makes a run longer" if longer else hint))
    kept = {name for name in stored if name not in reaching(RUN)}
    # The number of classes matters to weights alone, from which a run may still have to start.
    kept -= {"num_classes"} if stored["weights"] is None else set()
    kept -= {*LENGTH} if given.keys() & {*LENGTH} else set()
    filled = {name: stored[name] for name in kept if name not in given}
    return replace(config, **filled | _places(run, given))


def _check_longer(run: RunConfig, given: TrainConfig) -> None:
    """Raises ValueError unless the length of a run that is extended is given, and no shorter than it was."""
    before, now = (_length(config) for config in (run.options, given))
    if now is None and given.patience is not None:
        return
    if now is None:
        raise ValueError(f"extend needs the new length, as epochs or steps; the run has {_named(before)}")
    if before is None or now[1] < 1:  # `check` refuses the latter
        return
    steps = [-(-n * run.train_examples // run.options.batch_size) if of == "epochs" else n for of, n in (before, now)]
    if steps[1] < steps[0]:
        raise ValueError(f"extend makes a run longer; it has {_named(before)}; given {_named(now)}")


def _length(config: TrainConfig) -> tuple[str, int] | None:
    return next(((name, length) for name in LENGTH if (length := getattr(config, name)) is not None), None)


def _named(length: tuple[str, int] | None) -> str:
    return "no length" if length is None else f"{length[1]} {length[0]}"


def _run_in(out: Path) -> RunConfig:
    """Reads the config.json of the run in `out`; raises ValueError if it is damaged."""
    try:
        return read_run_config(out)
    except ValueError as error:
        raise ValueError(f"out {str(out)!r} has a damaged config.json; name a new folder: {error}") from None


def options_of_weights(config: TrainConfig) -> TrainConfig:
    """Fills in what the card of the file `config.weights` says of architecture and data, for an evaluation.

    Data that are given take nothing of the card's but the size of images, where none is given.

    Raises:
        ValueError: an option has a wrong value, or the network does not have it; the file cannot be read; neither
            option nor card names data; or a classifier is to be drawn from random values, whose accuracy says nothing.
    """
    check(config)
    if config.new_head:
        raise ValueError("new_head draws a classifier from random values, which says nothing in an evaluation")
    card = read_card(str(config.weights), which=config.which)
    data = card.get("data")
    known: dict[str, Any] = data if isinstance(data, dict) else {}
    if config.data is None and "data" not in known:
        raise ValueError(f"evaluation needs data (--data): the card of weights {config.weights!r} names none")
    classes = card.get("num_classes", config.num_classes)
    if config.num_classes not in (None, classes):
        raise ValueError(f"num_classes must be the {classes} of weights {config.weights!r}; given {config.num_classes}")
    if (arch := config.arch or card.get("arch")) in ARCHS:
        check_model_options(arch, {name: getattr(config, name) for name in reaching(MODEL)})
    if config.data is not None:
        known = {"image_size": known.get("test_image_size") or known.get("image_size")}
    filled = {name: known[name] for name in DATA if getattr(config, name) is None and name in known}
    # The card's network has options that no name of a network tells.
    return replace(config, **filled, arch=None if config.arch == card.get("arch") else config.arch)


def _differing(stored: Mapping[str, Any], given: Mapping[str, Any], extend: bool) -> Iterator[Difference]:
    """Yields the options that are given and differ from the run's."""
    for name, now in given.items():
        there = stored[name]
        if name in reaching(RUN) or (extend and name in ENDS):
            continue
        if name == "augment":
            now = current_names(now)
        if name in ADDRESSES and there is not None and (name == "weights" or kind_of(there) == kind_of(now)):
            continue
        if (tuple(now) if isinstance(now, list) else now) != there:
            yield Difference(f"model {name}" if name in reaching(MODEL) else name, there, now)


def kind_of(data: str) -> str:
    """Returns the kind of a data set: the part of its name before the first colon."""
    return data.partition(":")[0]


def places(config: TrainConfig) -> dict[str, str]:
    """Returns the entry "machine" of config.json: where the data are on this machine, for a start from elsewhere."""
    kind, _, path = place_of_data(config).partition(":")
    found = {"data": f"folder:{user_path(path).absolute()}"} if kind == "folder" else {}
    if config.data_dir is not None:
        found["data_dir"] = str(user_path(config.data_dir).absolute())
    return {name: place for name, place in found.items() if len(place) <= LONGEST_TEXT}


def place_of_data(config: TrainConfig) -> str:
    """Returns the name by which the data are opened: where the run noted them, if its own name leads nowhere here."""
    kind, _, path = (name := str(config.data)).partition(":")
    if kind != "folder" or user_path(path).exists() or config.out is None or not is_run(config.out):
        return name
    run = _run_in(Path(config.out))
    return run.machine.data if run.machine.data is not None and run.options.data == name else name


def _places(run: RunConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the folder of prepared data as the run noted it, where none is given."""
    data_dir = run.machine.data_dir
    known = "data_dir" not in given and kind_of(run.options.data) == "tfds" and data_dir is not None
    return {"data_dir": Path(str(data_dir))} if known and Path(str(data_dir)).is_dir() else {}


def another_run(out: Path, differing: Sequence[Difference], hint: str = "") -> str:
    """Returns the line that a folder holds another run, of at most `LONGEST` characters: some fields, and the count."""
    line = ""
    for (most, width, of_folder), end in (*((shown, hint) for shown in SHOWN[:3]), *((shown, "") for shown in SHOWN)):
        shown = [
            f"{each.name} ({' there, '.join(_both(each.there, each.now, width))} now)" for each in differing[:most]
        ]
        more = f" and {len(differing) - most} more" if len(differing) > most else ""
        line = f"out {_tail(str(out), of_folder)!r} holds another run, which differs in {', '.join(shown)}{more}{end}"
        if len(line) <= LONGEST:
            return line
    return shortened(line, LONGEST - 1)


def _both(there: Any, now: Any, width: int) -> tuple[str, str]:
    """Returns two values that differ, shortened: their ends, where they begin alike."""
    one, other = repr(there), repr(now)
    heads = _head(one, width), _head(other, width)
    return heads if heads[0] != heads[1] else (_tail(one, width), _tail(other, width))


def _head(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _tail(text: str, width: int) -> str:
    return text if len(text) <= width else f"…{text[1 - width :]}"
