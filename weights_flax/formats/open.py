"""Reader of files of weights in any format: their tensors by name, and their card."""

import json
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common_flax.errors import one_line
from weights_flax.formats.hdf5 import read_hdf5
from weights_flax.formats.hub import download
from weights_flax.formats.msgpack import read_msgpack
from weights_flax.formats.npz import read_npz
from weights_flax.formats.orbax import read_orbax
from weights_flax.formats.safetensors import read_safetensors
from weights_flax.formats.tensors import Tensor
from weights_flax.formats.torch import LEGACY_START, read_torch_legacy, read_torch_zip

# Keys under which checkpoints store a network beside an optimizer and other state; the first match is used.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "params", "state_dict_ema", "model_ema")


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file of weights, whose values are not read yet.

    Attributes:
        path: the file, or the folder of a checkpoint.
        format: name of the format, for messages.
        tensors: by the file's own names; keys of nested dicts are joined by "/".
        card: the description of its network, see `save_weights`; empty if the file has none.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    card: dict[str, Any] = field(default_factory=dict)


def open_weights(source: str | Path) -> WeightsFile:
    """Opens a file of weights; its first bytes tell the format.

    Args:
        source: a file of safetensors, of PyTorch (zipped or legacy), .npz, Keras' HDF5 or Flax's msgpack; a run's
            folder, whose averaged weights are preferred; a folder that Orbax wrote; or "hf://OWNER/NAME[/FILE]".

    Raises:
        ValueError: the file does not exist, is damaged, or holds something other than tensors. No code in it is run and
            nothing large is read.
    """
    path = download(str(source)) if str(source).startswith("hf:") else Path(source).expanduser()
    path = _in_folder(path) if path.is_dir() else path
    with reading(path):
        if path.is_dir():
            return WeightsFile(path, "checkpoint of Orbax", _flat(read_orbax(path)))
        with path.open("rb") as file:
            start = file.read(16)
        if start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith(".npy") for name in names):
                return _npz(path)
            return WeightsFile(path, "PyTorch", _state_dict(read_torch_zip(path)))
        if start.startswith(LEGACY_START):
            return WeightsFile(path, "PyTorch, legacy format", _state_dict(read_torch_legacy(path)))
        if start.startswith(b"\x89HDF\r\n\x1a\n"):
            return WeightsFile(path, "HDF5", read_hdf5(path))
        if start[8:9] == b"{":
            tensors, card = read_safetensors(path)
            return WeightsFile(path, "safetensors", tensors, _card(card))
        if start[:1] and (0x80 < start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):  # a map with entries
            return WeightsFile(path, "msgpack of Flax", _flat(read_msgpack(path)))
        if start.startswith(pickle.PROTO):
            raise ValueError("it is a pickle that PyTorch did not write")
        raise ValueError(
            "it begins as none of the known formats does: safetensors, PyTorch, .npz, HDF5 of Keras, msgpack of Flax"
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns every error of reading `path` into a ValueError of one line."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"weights {str(path)!r}: there is no such file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        # zipfile raises RuntimeError for encrypted files and for kinds of compression that it does not support.
        raise ValueError(f"weights {str(path)!r} cannot be read: {one_line(error)}") from None


def _in_folder(folder: Path) -> Path:
    """Returns the weights in the folder of a run, finished or not, of a snapshot of the hub, or of Orbax."""
    for name in ("model_ema.safetensors", "model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    if (folder / "_METADATA").is_file():
        return folder
    steps = [path for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]
    for step in sorted(steps, key=lambda path: -int(path.name)):
        return step / "state"
    raise ValueError(f"weights {str(folder)!r}: the folder has no weights: it is no run, and no checkpoint of Orbax")


def _npz(path: Path) -> WeightsFile:
    tensors = read_npz(path)
    card = tensors.pop("card", None)
    text = "" if card is None or card.dtype != "uint8" or card.shape[0] > 2**24 else bytes(card.read()).decode()
    return WeightsFile(path, "npz", tensors, _card(text))


def _card(text: str) -> dict[str, Any]:
    try:
        card = json.loads(text or "{}")
    except ValueError:
        return {}
    return card if isinstance(card, dict) else {}


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


def _flat(tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the network's leaves of a tree of Flax by paths, without the optimizer of a training state."""
    inside = [tree, *(value for value in tree.values() if isinstance(value, Mapping))]
    state = next((part for part in inside if isinstance(part.get("params"), Mapping)), tree)
    averaged = state.get("ema")
    if isinstance(averaged, Mapping) and isinstance(averaged.get("params"), Mapping):
        state = averaged
    if isinstance(state.get("params"), Mapping):
        state = {name: state[name] for name in ("params", "batch_stats") if isinstance(state.get(name), Mapping)}
    tensors: dict[str, Tensor] = {}
    parts: list[tuple[str, Mapping]] = [("", state)]
    while parts:
        before, part = parts.pop()
        for key, value in part.items():
            if isinstance(value, Tensor):
                tensors[f"{before}{key}"] = value
            elif isinstance(value, Mapping) and before.count("/") < 12:
                parts.append((f"{before}{key}/", value))
    if not tensors:
        raise ValueError("it has no tensors")
    return tensors
