"""Reader of files of weights in any format: their tensors by name, and their card."""

import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common_flax.check_sums import damage
from common_flax.checks import one_of
from common_flax.errors import one_line
from common_flax.files import open_regular, user_path
from common_flax.json_input import shortened
from weights_flax.formats.card import described
from weights_flax.formats.hdf5 import IN_ARCHIVE, read_hdf5, read_keras_archive
from weights_flax.formats.hub import download, said_beside, with_shards
from weights_flax.formats.msgpack import read_msgpack
from weights_flax.formats.npz import read_npz
from weights_flax.formats.orbax import items_of, network_leaves, read_orbax
from weights_flax.formats.run import FILES, WHICH, Run, newest_checkpoint, run_in
from weights_flax.formats.safetensors import read_safetensors, shards_of
from weights_flax.formats.tensors import MOST_TENSORS, Tensor, check_size, flat_tensors, open_zip
from weights_flax.formats.torch import LEGACY_START, read_torch_legacy, read_torch_zip
from weights_flax.unread.files import START, unread_format
from weights_flax.unread.folders import shard_of, unread_archive, unread_folder
from weights_flax.unread.look_alikes import Said
from weights_flax.unread.said import said_in

LONGEST = 800  # characters of a reason; libraries quote what they could not read
OF_FLAX = re.compile(r"checkpoint_?(\d{1,18}(?:\.\d{1,9})?)")  # files of flax.training.checkpoints.save_checkpoint
BROKEN = re.compile(
    r"truncated|not a zip file|incomplete metadata|invalid header length|header too small|cut short|"
    r"ends? (within|too early)"
)
WHOLE = ("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "flax_model.msgpack")


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file of weights, whose values are not read yet.

    Attributes:
        path: the file, or the folder of a checkpoint.
        format: name of the format, for messages.
        tensors: all of them, by the file's own names; keys of nested dicts are joined by "/".
        card: the description of its network, see `save_weights`; empty if the file has none.
        which: one of `WHICH`, of weights of a run or of a training state; None where the file does not tell.
        said: what others say of its network.
        notes: lines on what was chosen in it.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    card: dict[str, Any] = field(default_factory=dict)
    which: str | None = None
    said: tuple[Said, ...] = ()
    notes: tuple[str, ...] = ()


class Unreadable(ValueError):
    """A file of weights that is missing or damaged; the message is one line that names it."""


def open_weights(source: str | Path, *, which: str | None = None) -> WeightsFile:
    """Opens a file of weights; its first bytes tell the format.

    A run gives its best weights on a validation part if it has any, else its averaged ones, else those of its last
    step: from its file or, if the file is missing or older, from its checkpoint.

    Args:
        source: a file of safetensors (or the index of its shards), of PyTorch (zipped or legacy), .npz, Keras' HDF5 or
            .keras, or Flax's msgpack; a run's folder; a folder that Orbax wrote, its step or the root of its
            `CheckpointManager`; or "hf://OWNER/NAME[/FILE]".
        which: "best", "averaged" or "last", of a run or of a training state; None takes the first that is there. Of
            a checkpoint of others `weights_flax.io.choose` takes them.

    Raises:
        ValueError: the file does not exist, is damaged, belongs to another run, holds something other than tensors, or
            has no such weights. No code in it is run and nothing large is read.
    """
    if which is not None:
        one_of("which", which, WHICH)
    path = user_path(source)  # a folder of this machine may be called hf: too
    address = str(source) if str(source).startswith("hf:") and not path.exists() else None
    if address is not None:
        path = with_shards(address, download(address))
    run = run_in(path) if path.is_dir() else None
    if run is not None:
        return _of_run(run, run.kind(which))
    if (part := shard_of(path.name)) and path.is_file():
        raise ValueError(f"weights {str(path)!r}: {part}")
    found = _in_folder(path, which) if path.is_dir() else path
    file = _open_state(found, which) if isinstance(found, dict) else _open_file(found, which)
    if which not in (None, file.which) and (file.which or which == "best"):
        has = f"the {file.which} weights" if file.which else "weights that are not said to be the best of a run"
        raise ValueError(f"weights {str(file.path)!r} are {has}; asked for: {which}")
    if file.card.get("arch"):
        return file  # what others say of it is of no interest
    return replace(file, said=(*file.said, *said_beside(file.path, address)))


def _of_run(run: Run, kind: str) -> WeightsFile:
    """Opens the best, the averaged or the last weights of a run, from its file or from its checkpoint of them."""
    path, newest = run.folder / FILES[kind], run.checkpoint(kind)
    if path.is_file():
        file = _open_file(path, None)
        if run.is_current(path, file.card, kind):
            # Files of older versions do not tell which weights they have.
            return replace(file, card=file.card | {"run": file.card.get("run") or {"which": kind}}, which=kind)
    if newest is None:
        raise ValueError(f"run {str(run.folder)!r} has no checkpoint yet, and no {path.name}")
    run.check(newest, kind)
    about = {"mark": run.mark, "step": newest.step, "which": kind}
    inner = kind if kind != "best" else "averaged" if run.averaged else "last"
    return replace(_open_state({"": newest.folder / "state"}, inner), card={**run.card, "run": about}, which=kind)


def _open_state(items: Mapping[str, Path], which: str | None) -> WeightsFile:
    """Opens a checkpoint of Orbax: variables, or a training state, in one item or in several."""
    folder = next(iter(items.values()))
    with reading(folder):
        wrong = damage(folder.parent)  # checkpoints of runs have check sums
        if wrong is not None:
            raise ValueError(wrong)
        trees = {name: read_orbax(path) for name, path in items.items()}
        leaves = network_leaves(trees if len(trees) > 1 else next(iter(trees.values())), which)
    place = folder if len(items) == 1 else folder.parent
    about: dict[str, Any] = dict(which=leaves.which, notes=_of(place, leaves.notes))
    return WeightsFile(place, "checkpoint of Orbax", _guarded(place, leaves.tensors), **about)


def _of(path: Path, notes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"weights {str(path)!r}: {note}" for note in notes)


def _open_file(path: Path, which: str | None) -> WeightsFile:
    """Opens a file in the format that its first bytes tell."""
    with reading(path):
        with open_regular(path) as file:
            start, size = file.read(START), os.fstat(file.fileno()).st_size
            file.seek(max(size - 8, 0))
            end = file.read(8)
        if path.name.endswith(".index.json") and start[:1] == b"{":
            return _open_shards(path, which)
        content = _read(path, start, end, which)
        check_size(
            content.tensors, size, most=4 * MOST_TENSORS if content.format.startswith("PyTorch") else MOST_TENSORS
        )
    about = content.card.get("run")
    kind = about.get("which") if isinstance(about, Mapping) else content.which
    kind = kind if kind in WHICH else None
    notes = _of(path, content.notes)
    return WeightsFile(path, content.format, _guarded(path, content.tensors), content.card, kind, content.said, notes)


def _open_shards(index: Path, which: str | None) -> WeightsFile:
    """Opens the files in which an index lists a network's tensors."""
    tensors: dict[str, Tensor] = {}
    said: tuple[Said, ...] = ()
    for path, names in shards_of(index).items():
        part = _open_file(path, which)
        if lacking := [name for name in names if name not in part.tensors]:
            raise ValueError(f"its part {path.name!r} lacks {lacking[0][:100]!r}")
        tensors |= {name: part.tensors[name] for name in names}
        said = (*said, *(each for each in part.said if each not in said))
    return WeightsFile(index, f"{part.format} in parts", tensors, said=said)


class Content(NamedTuple):
    """The result of a format's reader: title, tensors, card, averaged or last, what is said of the network, notes."""

    format: str
    tensors: dict[str, Tensor]
    card: dict[str, Any] = {}
    which: str | None = None
    said: tuple[Said, ...] = ()
    notes: tuple[str, ...] = ()


def _read(path: Path, start: bytes, end: bytes, which: str | None) -> Content:
    """Reads a file that begins with the bytes `start`, and ends with the bytes `end`."""
    if start.startswith(b"PK"):
        with open_zip(path) as archive:
            names = archive.namelist()
        if IN_ARCHIVE in names:
            tensors, said = read_keras_archive(path)
            return Content("archive of Keras", tensors, said=said)
        if any(name.endswith(".npy") for name in names):
            return Content("npz", *read_npz(path))
        if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
            raise ValueError(unread_archive(names))
        return _of_torch("PyTorch", read_torch_zip(path))
    if start.startswith(LEGACY_START):
        return _of_torch("PyTorch, legacy format", read_torch_legacy(path))
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        tensors, said = read_hdf5(path)
        return Content("HDF5", tensors, said=said)
    if start[8:9] == b"{":
        tensors, card, metadata = read_safetensors(path)
        return Content("safetensors", tensors, card, said=said_in(metadata, "its metadata"))
    picture = start.startswith(b"\x89PNG")
    if not picture and start[:1] and (0x80 < start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):  # a map with entries
        tree, text, marked = read_msgpack(path)
        leaves = network_leaves(tree, which)
        tensors, card = described(leaves.tensors, text, marked=marked)
        return Content("msgpack of Flax", tensors, card, leaves.which, notes=leaves.notes)
    if start.startswith(pickle.PROTO):
        raise ValueError(
            "it is a pickle that PyTorch did not write; load it where it is trusted, and write its tensors by "
            "torch.save or numpy.savez"
        )
    raise ValueError(unread_format(path, start, end))


def _of_torch(title: str, content: Any) -> Content:
    tensors = flat_tensors(content)
    if not tensors:
        raise ValueError("it has no tensors")
    return Content(title, tensors, said=said_in(content))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns every error of reading `path` into an `Unreadable` of one line."""
    try:
        yield
    except Unreadable:
        raise
    except FileNotFoundError:
        raise Unreadable(f"weights {str(path)!r}: there is no such file{_of_annex(path)}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        # zipfile raises RuntimeError for encrypted files and for kinds of compression that it does not support.
        reason = shortened(getattr(error, "strerror", None) or one_line(error), LONGEST)
        reason += "; it is broken off, or damaged: fetch it again" if BROKEN.search(reason) else ""
        raise Unreadable(f"weights {str(path)!r} cannot be read: {reason}") from None


def _of_annex(path: Path) -> str:
    """Tells of a link that leads to nothing where its content is, if it is one of git-annex."""
    there = str(path.readlink()) if path.is_symlink() else ""
    return "; it is a link of git-annex: `git annex get` in its repository brings the file" * ("annex/objects" in there)


def _guarded(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors that raise `Unreadable` if their values cannot be read."""

    def guarded(tensor: Tensor) -> Tensor:
        def read() -> np.ndarray:
            with reading(path):
                return tensor.read()

        return Tensor(tensor.shape, tensor.dtype, read)

    return {name: guarded(tensor) for name, tensor in tensors.items()}


def _in_folder(folder: Path, which: str | None) -> Path | dict[str, Path]:
    """Returns the weights in a folder without a run's config.json: a file, or folders of Orbax by their names.

    The folder is that of a run, a snapshot of the hub, or one that Orbax wrote.
    """
    names = [FILES[kind] for kind in WHICH if which in (None, kind)]
    for name in [*names, *WHOLE]:
        if (folder / name).is_file():
            return folder / name
    newest = newest_checkpoint(folder)
    if newest is not None and not (folder / "_METADATA").is_file():
        return {"": newest.folder / "state"}
    with reading(folder):
        if items := items_of(folder):
            return items
        numbered = [(float(match[1]), path) for path in folder.iterdir() if (match := OF_FLAX.fullmatch(path.name))]
        if files := [each for each in numbered if each[1].is_file()]:
            return max(files)[1]
        said = unread_folder(folder)
    raise ValueError(f"weights {str(folder)!r}: {said}")
