"""Reader of Orbax' folders, and of the network's leaves in a tree of Flax, which these folders hold."""

import asyncio
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVarTuple

import jax
import numpy as np

from common_flax.json_input import MOST_BYTES, read_object
from resnet_flax.scan import REST
from weights_flax.formats.tensors import MOST_TENSORS, Tensor, check_size

MOST_FILES = 2**18
MOST_ENTRIES = 2**16  # of a folder of checkpoints
AVERAGES = re.compile(r"(^|_)(ema|averaged?|shadow|swa)(_|$)")
MOST_BLOCKS = 4096  # of a stage
WRAPPED = 4  # trees in each other around a training state
DESCRIPTIONS = ("zarr.json", "manifest.ocdbt")  # and files whose names begin with a sign; TensorStore reads them whole
Arguments = TypeVarTuple("Arguments")


def read_orbax(path: Path) -> dict[str, Any]:
    """Reads the tree of a folder that Orbax wrote, with `Tensor` leaves; reading one of them reads all values.

    Raises:
        ValueError: Orbax cannot read the folder, or the folder leads to files elsewhere, or to more values than it has.
    """
    import orbax.checkpoint as ocp

    stored = check_folder(path)
    try:
        with _quiet_loops(), ocp.PyTreeCheckpointer() as reader:
            found = reader.metadata(path.absolute()).item_metadata
            if found is None:
                raise ValueError("its description cannot be read")
            tree = found.tree
    except ValueError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        raise ValueError(f"{type(error).__name__}: {error}") from None
    values: dict[str, Any] = {}

    def read(path_in_tree: Any) -> np.ndarray:
        if not values:
            with _quiet_loops(), ocp.PyTreeCheckpointer() as reader:
                as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                restored = reader.restore(path.absolute(), restore_args=as_numpy)
            values.update({jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(restored)})
        return np.asarray(values[jax.tree_util.keystr(path_in_tree)])

    def lazy(place: Any, leaf: Any) -> Any:
        if getattr(leaf, "shape", None) is None or getattr(leaf, "dtype", None) is None:
            return None
        piece = getattr(leaf.storage, "chunk_shape", None) or ()
        if prod(piece) > 2 * max(prod(leaf.shape), 1):
            raise ValueError(f"an array has the shape {tuple(leaf.shape)}, in pieces of {tuple(piece)}")
        return Tensor(tuple(leaf.shape), np.dtype(leaf.dtype), lambda: read(place))

    tensors = jax.tree_util.tree_map_with_path(lazy, tree)
    every = jax.tree_util.tree_leaves_with_path(tensors)
    check_size({jax.tree_util.keystr(place): tensor for place, tensor in every}, stored, most=4 * MOST_TENSORS)
    return tensors


def check_folder(folder: Path) -> int:
    """Checks a folder of Orbax before Orbax, which trusts it, reads it.

    Returns:
        The bytes of all its files.

    Raises:
        ValueError: a link leads out of the folder, a file is no regular one, there are too many files, a description is
            too large, or the name of an array leads elsewhere.
        OSError: the folder cannot be read.
    """
    root, number, total = folder.resolve(), 0, 0
    for place, folders, files in os.walk(root):  # follows no links
        for name in [*folders, *files]:
            entry, number = Path(place, name), number + 1
            shown = str(entry.relative_to(root))[:100]
            if number > MOST_FILES:
                raise ValueError(f"it has more than {MOST_FILES:,} files")
            if entry.is_symlink() and not (entry.resolve().is_relative_to(root) and entry.exists()):
                raise ValueError(f"its link {shown!r} leads out of the folder, or to nothing")
            about = entry.stat()
            if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
                raise ValueError(f"its {shown!r} is no regular file")
            describes = name.startswith(("_", ".")) or name in DESCRIPTIONS or entry.parent.name == "array_metadatas"
            if describes and about.st_size > MOST_BYTES:
                raise ValueError(f"its {shown!r} has more than {MOST_BYTES:,} bytes")
            total += about.st_size
    _check_names(root / "_METADATA")
    return total


def _check_names(path: Path) -> None:
    """Raises ValueError unless the names of all arrays stay in the folder, to which Orbax joins them."""
    try:
        described = read_object(path).get("tree_metadata")
    except FileNotFoundError:
        raise ValueError(f"it has no {path.name}") from None
    for entry in described.values() if isinstance(described, dict) else ():
        keys = entry.get("key_metadata") if isinstance(entry, dict) else None
        for key in keys if isinstance(keys, list) else ():
            name = str(key.get("key")) if isinstance(key, dict) else ""
            if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
                raise ValueError(f"the name {name[:100]!r} of an array leads elsewhere")


def items_of(folder: Path) -> dict[str, Path]:
    """Returns the folders of arrays in a folder of Orbax, by the names of its items; empty if there are none.

    The folder has the arrays itself (""), is a step of a `CheckpointManager` ("default", or items of other names), or
    is the root of one, of which the newest step is taken. Steps that are being written, and links, are passed over.
    """
    if (folder / "_METADATA").is_file():
        return {"": folder}
    inside = _folders_in(folder)
    items = {path.name: path for path in inside if (path / "_METADATA").is_file()}
    steps = {path: re.fullmatch(r"(?:.*[_-])?(\d{1,18})", path.name) for path in inside}
    if items and not all(steps.get(path) for path in items.values()):
        return items
    numbered = sorted((int(match[1]), path) for path, match in steps.items() if match)
    for _, path in reversed(numbered):
        if found := {"": path} if path in items.values() else items_of_step(path):
            return found
    return items


def items_of_step(step: Path) -> dict[str, Path]:
    """Returns the folders of arrays in the folder of a step, by the names of its items."""
    return {path.name: path for path in _folders_in(step) if (path / "_METADATA").is_file()}


def _folders_in(folder: Path) -> list[Path]:
    """Returns the folders in another one by their names, without links and what Orbax has not finished."""
    entries = islice(folder.iterdir(), MOST_ENTRIES)
    return sorted(path for path in entries if "tmp" not in path.name and path.is_dir() and not path.is_symlink())


class Leaves(NamedTuple):
    """The network's leaves of a tree: tensors by paths, "averaged", "last" or None, and lines on what was chosen."""

    tensors: dict[str, Tensor]
    which: str | None
    notes: tuple[str, ...] = ()


def network_leaves(tree: Mapping[str, Any], which: str | None) -> Leaves:
    """Returns the network's leaves of a tree of Flax by paths, without the optimizer of a training state.

    Averages of all that the network has under "ema", as our own training states have them, are taken if there are any;
    others, of parameters alone or under other names, if they are asked for. An average without statistics goes with
    those of the network itself.

    Args:
        tree: dicts in each other, with `Tensor` leaves.
        which: "averaged" or "last"; None as above.

    Raises:
        ValueError: there are no tensors, or no averages that are asked for.
    """
    state = _training_state(tree)
    kind = "last" if "params" in state and state.keys() - {"params", "batch_stats"} else None
    averages = {
        name: value for name, value in state.items() if AVERAGES.search(str(name)) and isinstance(value, Mapping)
    }
    notes: tuple[str, ...] = ()
    own = {name for name in ("params", "batch_stats") if isinstance(state.get(name), Mapping)}
    ours = _is_state(averages.get("ema")) and own <= averages["ema"].keys()
    if which == "averaged" or (which is None and ours):
        if not averages:
            raise ValueError("it has no averaged weights")
        name, taken = next(((n, v) for n, v in averages.items() if _is_state(v)), next(iter(averages.items())))
        beside = state.get(name.replace("params", "batch_stats")) if "params" in name else None
        statistics = beside or state.get("batch_stats")
        state = {"batch_stats": statistics, **(taken if _is_state(taken) else {"params": taken})}
        notes = (f"took the averaged weights under {name!r}; ema=False (--which last) takes the others",) if own else ()
        kind = "averaged"
    elif averages and own:
        names = ", ".join(map(repr, averages))
        notes = (f"took the network under 'params', not {names}; ema=True (--ema) takes the averaged weights",)
    if _is_state(state):
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
    return Leaves(tensors, kind, notes if which is None else ())


def _is_state(tree: Any) -> bool:
    return isinstance(tree, Mapping) and isinstance(tree.get("params"), Mapping)


def _training_state(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the outermost tree that has parameters, or else the whole."""
    level = [tree]
    for _ in range(WRAPPED):
        if found := next((part for part in level if _is_state(part)), None):
            return found
        level = [value for part in level for value in part.values() if isinstance(value, Mapping)]
    return tree


def _blocks(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Returns a tensor of a network's blocks one by one, if it stacks those of a stage as `stack_blocks` does."""
    stacked = re.fullmatch(rf"(\w+/layer\d+)_{REST}/(.+)", name)
    if stacked is None or not 0 < (tensor.shape or (0,))[0] <= MOST_BLOCKS:
        return {name: tensor}
    return {f"{stacked[1]}_{index + 1}/{stacked[2]}": tensor.row(index) for index in range(tensor.shape[0])}


class _QuietLoop(asyncio.SelectorEventLoop):
    """An event loop that drops callbacks once it is closed."""

    def call_soon_threadsafe(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)


@contextmanager
def _quiet_loops() -> Iterator[None]:
    """Makes Orbax use event loops that stay quiet after they are closed, and log no warnings.

    At the first damaged array Orbax closes its loop, while TensorStore still reads other arrays; each of these would
    then print a traceback. An event loop policy would do the same, but Python 3.14 deprecates policies.
    """
    usual, teller = asyncio.new_event_loop, logging.getLogger("absl")
    asyncio.new_event_loop = _QuietLoop
    # Orbax warns of a file that older checkpoints, and items of a step, do not have; its errors are raised.
    level = teller.level
    teller.setLevel(logging.ERROR)
    try:
        yield
    finally:
        asyncio.new_event_loop = usual
        teller.setLevel(level)
