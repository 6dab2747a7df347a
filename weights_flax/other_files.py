"""Files of tensors by the libraries that know them: safetensors, NumPy's npz, HDF5, Flax's msgpack, Orbax."""

import asyncio
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVarTuple

import jax
import jax.numpy as jnp
import numpy as np

from common_flax.optional import library
from weights_flax.tensors import Tensor

Arguments = TypeVarTuple("Arguments")
HEADER_LIMIT = 2**25  # bytes of a safetensors header: that of 1,202 layers has one million
SAFETENSORS: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file, and the entry "model" of its metadata.

    Raises:
        ValueError: the library finds the file damaged.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > HEADER_LIMIT:
        raise ValueError(f"its header of {header:,} bytes is over {HEADER_LIMIT:,}")
    try:
        # Open for as long as its tensors are there: to open it anew for each would read the header each time.
        opened: Any = safe_open(path, "numpy")
        tensors = {name: _safetensor(opened, name) for name in opened.keys()}  # noqa: SIM118
        return tensors, (opened.metadata() or {}).get("model", "")
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _safetensor(file: Any, name: str) -> Tensor:
    part = file.get_slice(name)
    kind = part.get_dtype()
    if kind not in SAFETENSORS:
        raise ValueError(f"{name[:100]!r} is {kind}, which NumPy does not have")
    return Tensor(tuple(part.get_shape()), np.dtype(SAFETENSORS[kind]), partial(file.get_tensor, name))


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of a file of `np.savez` or `np.savez_compressed`.

    Raises:
        ValueError: the file is damaged, or has an array of objects.
    """
    tensors = {}
    archive = zipfile.ZipFile(path)  # open for as long as its tensors are there
    for entry in archive.infolist():
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            first = version == (1, 0)
            read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(file)
            size = file.tell() + prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{entry.filename[:100]!r} holds objects, not numbers")
        if size != entry.file_size:
            raise ValueError(f"{entry.filename[:100]!r} has {entry.file_size:,} bytes, not {size:,}")
        # NumPy does not know JAX's bfloat16, and names it two bytes without a meaning.
        kind = np.dtype(jnp.bfloat16) if dtype == np.dtype("V2") else dtype
        tensors[entry.filename.removesuffix(".npy")] = Tensor(shape, kind, partial(_read_npy, archive, entry, kind))
    return tensors


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, dtype: np.dtype) -> np.ndarray:
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False).view(dtype)


def read_hdf5(path: Path) -> dict[str, Tensor]:
    """The arrays of an HDF5 file of Keras, by their paths; its optimiser's are passed over.

    Raises:
        ValueError: h5py is missing, or an array is kept in another file.
    """
    h5py = library("h5py", extra="keras", purpose="a file of Keras")
    tensors: dict[str, Tensor] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer_weights/"):
            return
        if item.external is not None or item.is_virtual:
            raise ValueError(f"{name[:100]!r} is kept in another file")
        tensors[name.removeprefix("model_weights/")] = Tensor(item.shape, item.dtype, _hdf5_reader(path, name))

    with h5py.File(path, "r") as file:
        file.visititems(visit)  # which follows no links
    if not tensors:
        raise ValueError("it has no tensors")
    return tensors


def _hdf5_reader(path: Path, name: str) -> Any:
    def read() -> np.ndarray:
        import h5py

        with h5py.File(path, "r") as file:
            return np.asarray(file[name])

    return read


def read_msgpack(path: Path) -> dict[str, Any]:
    """The tree of a file of `flax.serialization.to_bytes`, with `Tensor` leaves.

    Raises:
        ValueError: the file is damaged.
    """
    import msgpack

    def extension(code: int, data: bytes) -> Any:
        if code != 1:  # scalars and complex numbers, which no network of ours has
            return None
        shape, dtype, buffer = msgpack.unpackb(data, raw=True, max_array_len=32, max_map_len=0)
        return _array(tuple(shape), np.dtype(jnp.dtype(dtype.decode())), buffer)

    try:
        # Lists are shapes and the like. Their memory is taken before they are read, up to these lengths.
        found = msgpack.unpackb(path.read_bytes(), ext_hook=extension, raw=False, max_array_len=4096, max_map_len=2**20)
    except (msgpack.UnpackException, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"its msgpack is damaged ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds no dict of tensors, but a {type(found).__name__}")
    return found


def _array(shape: tuple[int, ...], dtype: np.dtype, buffer: bytes) -> Tensor:
    if dtype.hasobject or prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"a tensor of shape {shape} and type {dtype} has {len(buffer):,} bytes")
    return Tensor(shape, dtype, lambda: np.frombuffer(buffer, dtype).reshape(shape))


def read_orbax(path: Path) -> dict[str, Any]:
    """The tree of a folder that Orbax wrote, with `Tensor` leaves; all is read when the first of them is.

    Raises:
        ValueError: Orbax finds it damaged.
    """
    import orbax.checkpoint as ocp

    try:
        with _quiet_loops(), ocp.PyTreeCheckpointer() as reader:
            tree = reader.metadata(path.absolute()).item_metadata.tree
    except Exception as error:  # whatever Orbax and TensorStore raise of a damaged file
        raise ValueError(f"{type(error).__name__}: {error}") from None
    values: dict[str, Any] = {}

    def read(path_in_tree: Any) -> np.ndarray:
        if not values:
            with _quiet_loops(), ocp.PyTreeCheckpointer() as reader:
                as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                found = reader.restore(path.absolute(), restore_args=as_numpy)
            values.update({jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(found)})
        return np.asarray(values[jax.tree_util.keystr(path_in_tree)])

    def lazy(place: Any, leaf: Any) -> Any:
        if getattr(leaf, "shape", None) is None or getattr(leaf, "dtype", None) is None:
            return None
        return Tensor(tuple(leaf.shape), np.dtype(leaf.dtype), lambda: read(place))

    return jax.tree_util.tree_map_with_path(lazy, tree)


class _QuietLoop(asyncio.SelectorEventLoop):
    """A loop that drops what is called for once it is closed."""

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
    """Has Orbax read with loops that are quiet once they are closed.

    At the first damaged array Orbax gives up and closes its loop, while TensorStore still reads other arrays: each of
    these would print a traceback at its end. A policy of loops would do the same, but Python 3.14 deprecates policies.
    """
    usual = asyncio.new_event_loop
    asyncio.new_event_loop = _QuietLoop
    try:
        yield
    finally:
        asyncio.new_event_loop = usual
