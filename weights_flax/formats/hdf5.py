"""Reader of Keras' HDF5 files and archives."""

import io
import zipfile
from collections.abc import Mapping
from functools import partial
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common_flax.json_input import MOST_BYTES
from common_flax.optional import library
from weights_flax.formats.tensors import MOST_TENSORS, FilePart, OpenFile, Tensor, open_zip
from weights_flax.unread.keras_config import keras_config
from weights_flax.unread.look_alikes import Said

MOST_ITEMS = 4 * MOST_TENSORS  # groups and arrays
DEEPEST = 64  # groups in groups
LARGEST_CHUNK = 2**20  # values of a piece that is larger than its array
FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # of HDF5 itself and of h5py; for any other HDF5 would load a library
OPTIMIZER = ("optimizer_weights/", "optimizer/")
IN_ARCHIVE, CONFIG = "model.weights.h5", "config.json"
EPSILON = 1.001e-5  # of BatchNorm in Keras applications
LOCAL_HEADER = 30  # bytes of a zip entry before its name
BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def read_hdf5(path: Path) -> tuple[dict[str, Tensor], tuple[Said, ...]]:
    """Reads the arrays of an HDF5 file of Keras, by their paths, except those of the optimizer.

    In files of Keras 3 (".weights.h5") arrays have numbers, and the layers' names stand beside them: these are put in
    the place of the paths, as in older files ("conv1_conv/conv1_conv/kernel"). A whole model's configuration tells the
    epsilons of its BatchNorms; variances are made those of Keras applications' epsilon, `EPSILON`.

    Returns:
        The arrays, and what the configuration says of the network.

    Raises:
        ValueError: h5py is not installed, an array is stored in another file, or layers have no names.
    """
    # The file stays open as long as its tensors exist, so that all are of one file if another takes its name.
    return _arrays(path)


def read_keras_archive(path: Path) -> tuple[dict[str, Tensor], tuple[Said, ...]]:
    """Reads the arrays in an archive of Keras 3 (".keras"), as those of its file model.weights.h5, see `read_hdf5`.

    Raises:
        ValueError: as `read_hdf5`; or the file in the archive is compressed or cut short.
    """
    archive = open_zip(path)
    entry = archive.getinfo(IN_ARCHIVE)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ValueError(f"its {IN_ARCHIVE} is compressed or encrypted, which Keras does not do")
    file = OpenFile(path)
    header = file.read(entry.header_offset, LOCAL_HEADER)
    start = entry.header_offset + LOCAL_HEADER + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    if len(header) < LOCAL_HEADER or file.size < start + entry.file_size:
        raise ValueError(f"its {IN_ARCHIVE} is cut short")
    text = b""
    if CONFIG in archive.namelist():
        with archive.open(CONFIG) as described:
            text = described.read(MOST_BYTES + 1)
    return _arrays(io.BufferedReader(FilePart(file, start, entry.file_size)), text)


def _arrays(source: Any, text: bytes = b"") -> tuple[dict[str, Tensor], tuple[Said, ...]]:
    """Returns the arrays of an HDF5 file, which is given by its path or open, and what its configuration says."""
    h5py = library("h5py", extra="keras", purpose="a file of Keras")
    tensors: dict[str, Tensor] = {}
    layers: dict[str, Any] = {}  # paths of groups of numbered arrays to the names of their layers
    visited = count(1)

    def visit(name: str, item: Any) -> None:
        if next(visited) > MOST_ITEMS or name.count("/") > DEEPEST:
            raise ValueError(f"it has more than {MOST_ITEMS:,} groups and arrays, or more than {DEEPEST} in each other")
        if isinstance(item, h5py.Group) and name.rpartition("/")[2] == "vars":
            layers[name] = item.attrs.get("name")
        if not isinstance(item, h5py.Dataset) or name.startswith(OPTIMIZER) or item.shape is None:
            return
        if item.external is not None or item.is_virtual:
            raise ValueError(f"{name[:100]!r} is kept in another file")
        made = item.id.get_create_plist()
        if unknown := {made.get_filter(index)[0] for index in range(made.get_nfilters())} - FILTERS:
            raise ValueError(f"{name[:100]!r} is compressed by filter {min(unknown)}, which HDF5 itself does not have")
        if item.chunks is not None and prod(item.chunks) > max(prod(item.shape), LARGEST_CHUNK):
            raise ValueError(f"{name[:100]!r} has the shape {item.shape}, in pieces of {item.chunks}")
        tensors[name.removeprefix("model_weights/")] = Tensor(item.shape, item.dtype, partial(_read, item))

    try:
        file = h5py.File(source, "r")
        file.visititems(visit)  # h5py follows no links here
        stored = file.attrs.get("model_config", text)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its HDF5 is damaged ({type(error).__name__})") from None
    if not tensors:
        raise ValueError("it has no tensors")
    config = keras_config(stored.encode() if isinstance(stored, str) else bytes(stored))
    named = _named(tensors, layers) if layers else tensors
    return {name: _of_epsilon(name, value, config.epsilons) for name, value in named.items()}, config.said


def _of_epsilon(name: str, tensor: Tensor, epsilons: Mapping[str, float]) -> Tensor:
    """Returns a variance of a BatchNorm as it would be with `EPSILON`; any other tensor as it is."""
    layer, _, leaf = name.removesuffix(":0").rpartition("/")
    parts = layer.split("/")
    tails = ("/".join(parts[at:]) for at in range(len(parts)))
    epsilon = next((epsilons[tail] for tail in tails if tail in epsilons), EPSILON)
    if leaf != "moving_variance" or epsilon == EPSILON:
        return tensor
    return tensor.map(lambda variance: variance + (epsilon - EPSILON))


def _named(tensors: Mapping[str, Tensor], layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns tensors such as "layers/conv2d/vars/0" by the names of their layers, as files of older versions do."""
    grouped: dict[str, dict[int, Tensor]] = {}
    named: dict[str, Tensor] = {}
    for path, tensor in tensors.items():
        group, _, number = path.rpartition("/")
        if group not in layers or not number.isdecimal():
            named[path] = tensor
        elif "seed_generator" not in group:  # the state of a Dropout
            grouped.setdefault(group, {})[int(number)] = tensor
    for group, numbered in grouped.items():
        name = layers[group]
        if not isinstance(name, str) or not name:
            raise ValueError("its layers have no names, as in files of early versions of Keras 3; save it as .h5 there")
        arrays = [numbered[number] for number in sorted(numbered)]
        for leaf, tensor in zip(_leaves(arrays), arrays, strict=True):
            full = f"{name}/{name}/{leaf}"
            if full in named:
                raise ValueError(f"it has two layers of the name {name[:100]!r}")
            named[full] = tensor
    return named


def _leaves(arrays: list[Tensor]) -> list[str]:
    """Returns the names of a layer's arrays, in the order in which Keras numbers them."""
    if len(arrays) == 4 and {len(tensor.shape) for tensor in arrays} == {1}:
        return list(BATCH_NORM)
    if len(arrays) <= 2 and len(arrays[0].shape) > 1 and all(len(tensor.shape) == 1 for tensor in arrays[1:]):
        return ["kernel", "bias"][: len(arrays)]
    return [f"array {number}" for number in range(len(arrays))]


def _read(item: Any) -> np.ndarray:
    return np.asarray(item)
