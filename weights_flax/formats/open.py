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
from typing import Any

import numpy as np

from common_flax.check_sums import damage
from common_flax.checks import one_of
from common_flax.errors import one_line
from common_flax.files import open_regular, user_path
from resnet_flax.scan import REST
from weights_flax.formats.card import described
from weights_flax.formats.hdf5 import IN_ARCHIVE, read_hdf5, read_keras_archive
from weights_flax.formats.hub import download
from weights_flax.formats.msgpack import read_msgpack
from weights_flax.formats.npz import read_npz
from weights_flax.formats.orbax import read_orbax
from weights_flax.formats.run import FILES, WHICH, Run, newest_checkpoint, run_in
from weights_flax.formats.safetensors import read_safetensors
from weights_flax.formats.tensors import Tensor, check_size, open_zip
from weights_flax.formats.torch import LEGACY_START, read_torch_legacy, read_torch_zip

# Keys under which checkpoints store a network beside an optimizer and other state; the first match is used.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "params", "state_dict_ema", "model_ema")
MOST_BLOCKS = 4096  # of a stage


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file of weights, whose values are not read yet.

    Attributes:
        path: the file, or the folder of a checkpoint.
        format: name of the format, for messages.
        tensors: by the file's own names; keys of nested dicts are joined by "/".
        card: the description of its network, see `save_weights`; empty if the file has none.
        which: "averaged" or "last" of weights of a run or of a training state; None where the file does not tell.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    card: dict[str, Any] = field(default_factory=dict)
    which: str | None = None


class Unreadable(ValueError):
    """A file of weights that is missing or damaged; the message is one line that names it."""


def open_weights(source: str | Path, *, which: str | None = None) -> WeightsFile:
    """Opens a file of weights; its first bytes tell the format.

    A run gives its averaged weights if it has any, else those of its last step: from its file or, if the file is
    missing or older, from its newest checkpoint.

    Args:
        source: a file of safetensors, of PyTorch (zipped or legacy), .npz, Keras' HDF5 or .keras, or Flax's msgpack; a
            run's folder; a folder that Orbax wrote; or "hf://OWNER/NAME[/FILE]".
        which: "averaged" or "last", of a run or of a training state; None takes averaged weights if there are any.

    Raises:
        ValueError: the file does not exist, is damaged, belongs to another run, holds something other than tensors, or
            has no such weights. No code in it is run and nothing large is read.
    """
    if which is not None:
        one_of("which", which, WHICH)
    path = user_path(source)  # a folder of this machine may be called hf: too
    if str(source).startswith("hf:") and not path.exists():
        path = download(str(source))
    run = run_in(path) if path.is_dir() else None
    if run is not None:
        return _of_run(run, run.kind(which))
    path = _in_folder(path, which) if path.is_dir() else path
    file = _open_state(path, which) if path.is_dir() else _open_file(path, which)
    if which not in (None, file.which):
        has = f"the {file.which} weights" if file.which else "weights that are not said to be averaged or last"
        raise ValueError(f"weights {str(path)!r} are {has}; asked for: {which}")
    return file


def _of_run(run: Run, kind: str) -> WeightsFile:
    """Opens the averaged or the last weights of a run, from its file or from its newest checkpoint."""
    path, newest = run.folder / FILES[kind], newest_checkpoint(run.folder)
    if path.is_file():
        file = _open_file(path, None)
        if run.is_current(path, file.card, kind):
            # Files of older versions do not tell which weights they have.
            return replace(file, card=file.card | {"run": file.card.get("run") or {"which": kind}}, which=kind)
    if newest is None:
        raise ValueError(f"run {str(run.folder)!r} has no checkpoint yet, and no {path.name}")
    run.check(newest)
    about = {"mark": run.mark, "step": newest.step, "which": kind}
    return replace(_open_state(newest.folder / "state", kind), card={**run.card, "run": about}, which=kind)


def _open_state(folder: Path, which: str | None) -> WeightsFile:
    """Opens a checkpoint of Orbax: variables, or a training state."""
    with reading(folder):
        wrong = damage(folder.parent)  # checkpoints of runs have check sums
        if wrong is not None:
            raise ValueError(wrong)
        tensors, which = _flat(read_orbax(folder), which)
    return WeightsFile(folder, "checkpoint of Orbax", _guarded(folder, tensors), which=which)


def _open_file(path: Path, which: str | None) -> WeightsFile:
    """Opens a file in the format that its first bytes tell."""
    with reading(path):
        with open_regular(path) as file:
            start, size = file.read(16), os.fstat(file.fileno()).st_size
        title, tensors, card, kind = _read(path, start, which)
        check_size(tensors, size)
    about = card.get("run")
    kind = about.get("which") if isinstance(about, Mapping) else kind
    return WeightsFile(path, title, _guarded(path, tensors), card, kind if kind in WHICH else None)


Content = tuple[str, dict[str, Tensor], dict[str, Any], str | None]  # format, tensors, card, averaged or last


def _read(path: Path, start: bytes, which: str | None) -> Content:
    """Reads a file that begins with the bytes `start`."""
    if start.startswith(b"PK"):
        with open_zip(path) as archive:
            names = archive.namelist()
        if IN_ARCHIVE in names:
            return "archive of Keras", read_keras_archive(path), {}, None
        if any(name.endswith(".npy") for name in names):
            return "npz", *read_npz(path), None
        return "PyTorch", _state_dict(read_torch_zip(path)), {}, None
    if start.startswith(LEGACY_START):
        return "PyTorch, legacy format", _state_dict(read_torch_legacy(path)), {}, None
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5", read_hdf5(path), {}, None
    if start[8:9] == b"{":
        return "safetensors", *read_safetensors(path), None
    if start[:1] and (0x80 < start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):  # a map with entries
        tree, text, marked = read_msgpack(path)
        tensors, kind = _flat(tree, which)
        return "msgpack of Flax", *described(tensors, text, marked=marked), kind
    if start.startswith(pickle.PROTO):
        raise ValueError("it is a pickle that PyTorch did not write")
    raise ValueError(
        "it begins as none of the known formats does: safetensors, PyTorch, .npz, HDF5 of Keras, msgpack of Flax"
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns every error of reading `path` into an `Unreadable` of one line."""
    try:
        yield
    except Unreadable:
        raise
    except FileNotFoundError:
        raise Unreadable(f"weights {str(path)!r}: there is no such file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        # zipfile raises RuntimeError for encrypted files and for kinds of compression that it does not support.
        reason = getattr(error, "strerror", None) or one_line(error)
        raise Unreadable(f"weights {str(path)!r} cannot be read: {reason}") from None


def _guarded(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors that raise `Unreadable` if their values cannot be read."""

    def guarded(tensor: Tensor) -> Tensor:
        def read() -> np.ndarray:
            with reading(path):
                return tensor.read()

        return Tensor(tensor.shape, tensor.dtype, read)

    return {name: guarded(tensor) for name, tensor in tensors.items()}


def _in_folder(folder: Path, which: str | None) -> Path:
    """Returns the weights in a folder without a run's config.json, of a run, a snapshot of the hub, or Orbax."""
    names = [FILES[kind] for kind in WHICH if which in (None, kind)]
    for name in [*names, "pytorch_model.bin"]:
        if (folder / name).is_file():
            return folder / name
    if (folder / "_METADATA").is_file():
        return folder
    newest = newest_checkpoint(folder)
    if newest is not None:
        return newest.folder / "state"
    raise ValueError(f"weights {str(folder)!r}: the folder has no weights: it is no run, and no checkpoint of Orbax")


def _state_dict(content: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors of the outermost dict in a checkpoint that has any."""
    for _ in range(3):  # checkpoints nest no deeper
        tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if tensors:
            return tensors
        inner = {key: value for key, value in content.items() if isinstance(value, dict)}
        wanted = [key for key in WRAPPERS if key in inner] or list(inner)
        if not wanted:
            break
        content = inner[wanted[0]]
    raise ValueError("it has no tensors")


def _flat(tree: Mapping[str, Any], which: str | None) -> tuple[dict[str, Tensor], str | None]:
    """Returns the network's leaves of a tree of Flax by paths, without the optimizer of a training state.

    Also returns "averaged" or "last" if the tree is a training state.
    """
    inside = [tree, *(value for value in tree.values() if isinstance(value, Mapping))]
    state = next((part for part in inside if isinstance(part.get("params"), Mapping)), tree)
    averaged = state.get("ema")
    kind = "last" if "params" in state and state.keys() - {"params", "batch_stats"} else None
    if which != "last" and isinstance(averaged, Mapping) and isinstance(averaged.get("params"), Mapping):
        state, kind = averaged, "averaged"
    if which == "averaged" != kind:
        raise ValueError("it has no averaged weights")
    if isinstance(state.get("params"), Mapping):
        state = {name: state[name] for name in ("params", "batch_stats") if isinstance(state.get(name), Mapping)}
    tensors: dict[str, Tensor] = {}
    parts: list[tuple[str, Mapping]] = [("", state)]
    while parts:
        before, part = parts.pop()
        for key, value in part.items():
            if isinstance(value, Tensor):
                tensors |= _blocks(f"{before}{key}", value)
            elif isinstance(value, Mapping) and before.count("/") < 12:
                parts.append((f"{before}{key}/", value))
    if not tensors:
        raise ValueError("it has no tensors")
    return tensors, kind


def _blocks(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Returns a tensor of a network's blocks one by one, if it stacks those of a stage as `stack_blocks` does."""
    stacked = re.fullmatch(rf"(\w+/layer\d+)_{REST}/(.+)", name)
    if stacked is None or not 0 < (tensor.shape or (0,))[0] <= MOST_BLOCKS:
        return {name: tensor}
    return {f"{stacked[1]}_{index + 1}/{stacked[2]}": tensor.row(index) for index in range(tensor.shape[0])}
