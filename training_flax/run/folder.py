"""The folder of a run: its name and lock, its files, and the check that a run may continue in it."""

import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

import jax

from common_flax.check_sums import sealed, unsealed
from common_flax.errors import one_line
from common_flax.files import UNFINISHED, make_folder, remove_unfinished, user_path, whole_file
from common_flax.json_input import read_object
from common_flax.terminal import complain
from training_flax.config.config import TrainConfig
from training_flax.config.of_run import ENDS, Difference, another_run, kind_of, places
from training_flax.config.run_config import FILE, OWN, SEVERAL, is_run, numbers_options, plain, read_config
from training_flax.data.dataset import Dataset
from training_flax.data.held_out import write_split
from training_flax.runtime.locks import lock
from training_flax.runtime.random_numbers import RandomNumbers, by_shape, current
from training_flax.runtime.signals import RunError
from training_flax.runtime.users_code import is_users
from weights_flax.formats.orbax import read_orbax
from weights_flax.formats.run import newest_checkpoint

LOCK = ".lock"
# Options that are addresses, and the entries that tell the content apart, beside the names of files.
CONTENT = {"data": ("train_bytes", "test_bytes", "validation_bytes"), "weights": ("weights_sum",)}
LABELS = ("train_labels", "test_labels", "validation_labels")
TRAIN_FACTS = ("train_examples", "train_files", "train_bytes", "train_labels", "normalisation")
# A broken image may be mended; and marks that are older than the sums of labels must stay what they are.
UNMARKED = ("versions", *chain(*CONTENT.values()), *LABELS)


class InUse(ValueError):
    """Raised for a folder in which another process trains."""


def run_path(
    config: TrainConfig, dataset: Dataset, own: Mapping[str, str] | None = None, *, extend: bool = False
) -> Path:
    """Returns the folder for a run: `config.out`, or a new name under runs/. Writes nothing.

    Args:
        config: the resolved options.
        dataset: the run's data.
        own: see `numbers_options`.
        extend: allow an existing run to get more epochs or steps.

    Raises:
        ValueError: the folder holds something else than this run, or cannot be written to.
    """
    if config.out is None and jax.process_count() > 1:
        raise ValueError(f"out must be given to {jax.process_count()} processes: each would name another folder")
    if config.out is None:
        stem = f"runs/{config.arch}-{kind_of(str(config.data))}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = chain([stem], (f"{stem}-{i}" for i in count(2)))  # a clock may stand still, or go back
        return next(Path(name) for name in names if not Path(name).exists())
    out = Path(config.out)
    try:
        str(out.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(f"out {str(out)!r} must be UTF-8, as names of checkpoints are; name another folder") from None
    try:
        _check_folder(out, numbers_options(config, dataset, own), extend)
    except OSError as error:
        raise ValueError(f"out {str(out)!r} cannot be read: {error.strerror}") from None
    return out


def _check_folder(out: Path, wanted: dict[str, Any], extend: bool) -> None:
    """Raises ValueError unless a run with the options `wanted` may write to `out`."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out {str(out)!r} is not a folder; name a new one")
    parent = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"out {str(out)!r} cannot be made: {str(parent)!r} is no folder that may be written to")
    if out.is_dir() and any(path.name != LOCK and not path.name.endswith(UNFINISHED) for path in out.iterdir()):
        check_same_run(out, wanted, ignored=ENDS if extend else ())


def checkpoint_steps(run: Path) -> list[int]:
    """Returns the steps of a run's checkpoints, whole or damaged."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))


def check_same_run(out: Path, wanted: dict[str, Any], *, ignored: Collection[str] = (), hint: str = "") -> None:
    """Raises ValueError, whose line `hint` ends, unless the run in `out` has the options `wanted`, but for some."""
    if not (out / FILE).is_file():
        raise ValueError(f"out {str(out)!r} is not empty, and holds no run to go on with; name a new folder")
    try:
        stored = read_config(out)
    except ValueError as error:
        raise ValueError(f"out {str(out)!r} has a damaged config.json; name a new folder: {error}") from None
    there, now = _flat(stored), _flat(plain(wanted))
    unknown = {"train_files", "test_files", *LABELS, *chain(*CONTENT.values())} - there.keys()  # runs of older versions
    ignored = {"versions", *ignored, *_addresses(there, now)} | unknown
    validation = [name for name in there if name.startswith("validation_")]  # which the data may have no more
    names = [name for name in dict.fromkeys((*now, *validation, *OWN, SEVERAL)) if name not in ignored]
    if differing := [
        Difference(name, there.get(name), now.get(name)) for name in names if there.get(name) != now.get(name)
    ]:
        raise ValueError(another_run(out, differing, hint))


def _addresses(there: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yields the entries that need not be equal: addresses of the same content, and the content of equal addresses."""
    for option, content in CONTENT.items():
        before, given = there.get(option), now[option]
        if before == given:
            yield from content  # a broken image may have been mended; weights are read once
        elif before is None or given is None or (option == "data" and kind_of(before) != kind_of(given)):
            continue
        elif option == "weights" and _place(before) == _place(given):
            yield from (option, *content)
        # Data without files are told by their other entries; weights without files, as of the hub, by nothing.
        elif all(there.get(name) == now.get(name) for name in content) and (option == "data" or content[0] in now):
            yield option


def _place(source: str) -> str:
    return os.path.realpath(user_path(source))


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a flat dict: the options of "model" stand beside the others, each as "model NAME"."""
    model = {f"model {name}": value for name, value in values["model"].items()}
    return {name: value for name, value in values.items() if name != "model"} | model


def mark_of(run: Path, config: TrainConfig, dataset: Dataset, own: Mapping[str, str] | None = None) -> str:
    """Returns the mark that a run's checkpoints, weights and summary carry: sixteen hexadecimal digits.

    It is a hash of all that the run's numbers depend on except its length, taken when the run begins; config.json keeps
    it. So a run that is extended, or goes on with other versions of libraries, keeps its mark. Lengths are compared by
    themselves, see `lengths_of`.
    """
    if is_run(run) and (stored := read_config(run).get("mark")):
        return str(stored)
    values = numbers_options(config, dataset, own)
    values = {name: value for name, value in values.items() if name not in (*ENDS, *UNMARKED)}
    return hashlib.sha256(json.dumps(plain(values), sort_keys=True).encode()).hexdigest()[:16]


def lengths_of(run: Path, total_steps: int) -> tuple[int, ...]:
    """Returns the numbers of steps that a run was planned for: `total_steps`, and those before it was extended."""
    stored = read_config(run).get("lengths", ()) if is_run(run) else ()
    return tuple(sorted({*stored, total_steps}))


def random_numbers(run: Path) -> RandomNumbers:
    """Returns the random numbers of a run that exists, which it keeps; those of JAX's settings for a new one."""
    if not is_run(run):
        return current()
    if stored := read_config(run).get("random"):
        return RandomNumbers(**stored)
    newest = newest_checkpoint(run)  # of an older version
    try:
        return current() if newest is None else by_shape(read_orbax(newest.folder / "state")["key"].shape)
    except (ValueError, KeyError):  # damaged, which the reader of checkpoints says
        return current()


def write_config(
    run: Path, config: TrainConfig, dataset: Dataset, mark: str, lengths: Sequence[int] = (), **facts: Any
) -> None:
    """Writes config.json: `numbers_options`, mark, lengths, random numbers, places, `facts`, and a check sum.

    Images that were drawn for the parts are listed in split.csv.
    """
    if is_run(run) and read_config(run).get("mark") not in (None, mark):
        raise ValueError(f"out {str(run)!r} holds another run, which has begun meanwhile; name a new folder")
    values = plain(numbers_options(config, dataset))
    about = {"mark": mark, "lengths": list(lengths), "random": random_numbers(run)._asdict()}
    about |= {"machine": places(config)}
    write_json(run / FILE, {**values, **about, **facts})
    if dataset.drawn:
        labels = {"train": dataset.train.labels, "test": dataset.test.labels}
        labels |= {} if dataset.validation is None else {"validation": dataset.validation.labels}
        names = {part: [dataset.named(label) for label in labels[part]] for part in dataset.drawn}
        write_split(run, dataset.drawn, names)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file, without its check sum; raises ValueError if the file is damaged."""
    values = read_object(path)
    try:
        return unsealed(values)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from None


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Makes the run's folder, and locks it against other processes within this context.

    File systems without locks, such as some of clusters, do without, and a line on stderr says so. Raises InUse if
    another process trains in the folder, and ValueError if it cannot be made.
    """
    try:
        make_folder(run)
    except OSError as error:
        raise ValueError(f"out {str(run)!r} cannot be made: {error.strerror}") from None
    # The file is never emptied: it may be a link to another one. A pipe of this name does not block.
    descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        try:
            reason = lock(descriptor)
        except BlockingIOError:
            raise InUse(f"out {str(run)!r} is in use by another process that trains") from None
        if reason:
            complain(f"out {str(run)!r} cannot be locked ({reason}): start no second command in it while this one runs")
        else:
            remove_unfinished(run)
            _remove_pipes(run)
        yield
    finally:
        os.close(descriptor)


def _remove_pipes(run: Path) -> None:
    """Removes pipes and sockets, in whose places files of the run belong: whoever opens one to write waits for ever."""
    for path in run.iterdir():
        if path.name != LOCK and (path.is_fifo() or path.is_socket()):
            path.unlink()


@contextmanager
def written_to(run: Path) -> Iterator[None]:
    """Turns errors of reading and writing within this context into a RunError of one line."""
    try:
        yield
    except OSError as error:
        if is_users(error):
            raise
        raise RunError(f"run {str(run)!r} cannot be written or read: {one_line(error)}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes `values` and their check sum, whole or not at all."""
    with whole_file(path) as file:
        file.write_text(json.dumps(sealed(values), indent=2, allow_nan=False) + "\n")
