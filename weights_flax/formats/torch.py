"""Reader and writer of PyTorch's files, zipped and legacy, which need no PyTorch and run no code."""

import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from common_flax.files import whole_file
from weights_flax.formats.npz import array_builders
from weights_flax.formats.pickles import LIMIT, builder_of, data_builders, name_of, passed, read_pickle
from weights_flax.formats.tensors import FilePart, OpenFile, Tensor, as_tree, open_zip

START_OF_PICKLE = 2**20  # bytes that tell what a legacy file is
MOST_EXPANDED = 2**26  # numbers of a tensor that has fewer in its file
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # of the legacy format
LEGACY_START = pickle.PROTO + b"\x02" + pickle.LONG1 + b"\x0a" + MAGIC_NUMBER.to_bytes(10, "little")
STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
TYPES = (  # names of PyTorch that stand for a type or an order of axes
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128", "bool"),
    *("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"),
    *("strided", "preserve_format", "contiguous_format", "channels_last"),
)


class _Storage(NamedTuple):
    """A row of numbers that tensors are views of."""

    key: str
    dtype: np.dtype
    size: int  # of numbers
    read: Callable[[], np.ndarray]


def read_torch_zip(path: Path) -> Any:
    """Reads a file of `torch.save` since version 1.6: dicts and lists in each other, with `Tensor` leaves.

    Raises:
        ValueError: the file is damaged, or holds something other than tensors and containers.
    """
    archive = open_zip(path)
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if any(name.rpartition("/")[2] == "constants.pkl" for name in entries):
        raise ValueError(
            "it is a TorchScript network, whose code is not run: load it by torch.jit.load, and save its state_dict()"
        )
    if len(pickles) != 1:
        raise ValueError(f"it must have one data.pkl; it has {len(pickles)}")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries and _bytes_of(archive, entries[f"{folder}byteorder"], 16) != b"little":
        raise ValueError("its numbers are big-endian")

    def storage(key: str, dtype: np.dtype, size: int) -> _Storage:
        entry = entries.get(f"{folder}data/{key}")
        if entry is None:
            raise ValueError(f"it lacks the storage {key[:40]!r}")
        if entry.file_size != size * dtype.itemsize:
            raise ValueError(f"its storage {key[:40]!r} has {entry.file_size:,} bytes, not {size * dtype.itemsize:,}")
        return _Storage(key, dtype, size, lambda: np.frombuffer(_bytes_of(archive, entry, entry.file_size), dtype))

    data = _bytes_of(archive, entries[pickles[0]], LIMIT)
    with _whole_modules(data):
        return as_tree(read_pickle(BytesIO(data), _builders(), _storages(storage)))


@contextmanager
def _whole_modules(data: bytes) -> Iterator[None]:
    """Tells of a pickle whose names cannot be read that it has whole modules in it, if it has their attributes."""
    try:
        yield
    except ValueError as error:
        if "it names" not in str(error) or not (b"_parameters" in data and b"_modules" in data):
            raise
        raise ValueError(
            f"it is a whole module, not its weights ({error}): load it where it is trusted, and save model.state_dict()"
        ) from None


def _bytes_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    if entry.compress_type != zipfile.ZIP_STORED:  # PyTorch never compresses; a few bytes could expand to gigabytes
        raise ValueError(f"its entry {entry.filename[:60]!r} is compressed")
    if entry.file_size > limit:
        raise ValueError(f"its entry {entry.filename[:60]!r} has {entry.file_size:,} bytes, over {limit:,}")
    return archive.read(entry)


def read_torch_legacy(path: Path) -> Any:
    """Reads a file of `torch.save` before version 1.6: dicts and lists in each other, with `Tensor` leaves.

    Raises:
        ValueError: the file is damaged, or holds something other than tensors and containers.
    """
    file = OpenFile(path)
    head = BufferedReader(FilePart(file, 0, min(file.size, LIMIT)))
    places: dict[str, tuple[int, np.dtype, int]] = {}  # the first byte of each storage, its type and size

    def storage(key: str, dtype: np.dtype, size: int) -> _Storage:
        if places.setdefault(key, (0, dtype, size))[1:] != (dtype, size):
            raise ValueError(f"its storage {key[:40]!r} has two sizes")

        def read() -> np.ndarray:
            data = file.read(places[key][0], size * dtype.itemsize)
            if len(data) != size * dtype.itemsize:
                raise ValueError(f"its storage {key[:40]!r} ends too early")
            return np.frombuffer(data, dtype)

        return _Storage(key, dtype, size, read)

    if read_pickle(head, {}) != MAGIC_NUMBER:
        raise ValueError("it does not begin as a file of PyTorch does")
    if (version := read_pickle(head, {})) != 1001:
        raise ValueError(f"its version is {version!r}, not 1001")
    system = read_pickle(head, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    with _whole_modules(file.read(0, START_OF_PICKLE)):
        tree = read_pickle(head, _builders(), _storages(storage))
    keys = read_pickle(head, {})
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(places):
        raise ValueError("its list of storages is not that of its tensors")
    place = head.tell()
    for key in keys:
        _, dtype, size = places[key]
        if int.from_bytes(file.read(place, 8), "little", signed=True) != size:
            raise ValueError(f"its storage {key[:40]!r} has another size than its tensors say")
        places[key] = (place + 8, dtype, size)
        place += 8 + size * dtype.itemsize
        if place > file.size:
            raise ValueError(f"it ends within the storage {key[:40]!r}")
    return as_tree(tree)


def _storages(make: Callable[[str, np.dtype, int], _Storage]) -> Callable[[Any], _Storage]:
    """Returns a function that makes a storage from its persistent id, ("storage", type, key, device, size, …)."""

    def storage(identity: Any) -> _Storage:
        kind, typename, key, _, size, *view = identity
        module, name = name_of(typename)
        if kind != "storage" or any(item is not None for item in view) or not isinstance(key, str):
            raise ValueError("it has a storage of a kind that is not known")
        if module != "torch" or name not in STORAGES:
            raise ValueError(f"it has a {name[:40]}, which is not a storage of numbers that NumPy has")
        if not _is_size(size):
            raise ValueError(f"its storage {key[:40]!r} has the size {size!r}")
        return made.setdefault(key, make(key, STORAGES[name], size))

    made: dict[str, _Storage] = {}
    return storage


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Makes a view of a storage, as `torch._utils._rebuild_tensor_v2` does."""
    if not isinstance(storage, _Storage) or not _is_size(offset):
        raise ValueError("it has a tensor without a storage")
    tuples = isinstance(shape, tuple) and isinstance(strides, tuple)
    if not tuples or not len(shape) == len(strides) <= 32 or not all(map(_is_size, (*shape, *strides))):
        raise ValueError(f"it has a tensor whose shape is {str(shape)[:60]}, with strides {str(strides)[:60]}")
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # A view that repeats numbers could be far larger than its file; `expand` makes such, with strides of 0.
    spread = prod(size for size, stride in zip(shape, strides, strict=True) if stride)
    if prod(shape) > max(MOST_EXPANDED, spread):
        beyond = f"that goes beyond its storage of {storage.size:,}: save its .contiguous()"
        raise ValueError(f"it has an expanded tensor of shape {str(shape)[:60]} {beyond}")
    if prod(shape) and max(offset + last + 1, offset + spread) > storage.size:
        raise ValueError(f"it has a tensor of shape {str(shape)[:60]} that goes beyond its storage of {storage.size:,}")
    if not prod(shape):
        return Tensor(shape, storage.dtype, lambda: np.zeros(shape, storage.dtype))

    def read() -> np.ndarray:
        size = storage.dtype.itemsize
        steps = [stride * size for stride in strides]
        return np.ascontiguousarray(np.ndarray(shape, storage.dtype, storage.read(), offset * size, steps))

    return Tensor(shape, storage.dtype, read)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _builders() -> dict[tuple[str, str], Callable[..., Any]]:
    """Returns the builders of the names in files of tensors; those that no tensor needs build nothing of use."""
    first: Callable[..., Any] = lambda tensor, *_: tensor  # noqa: E731
    return {
        **data_builders(),
        **array_builders(),
        **dict.fromkeys([("torch", name) for name in (*STORAGES, *TYPES, "device", "Generator")], passed),
        ("torch.serialization", "_get_layout"): passed,
        ("torch", "Size"): tuple,
        ("torch", "Tensor"): first,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): first,
        ("torch._utils", "_rebuild_parameter_with_state"): first,
        ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
        ("torch.nn.parameter", "Parameter"): first,
        ("torch.nn.parameter", "Buffer"): first,
    }


def _of_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """Makes a tensor of a class of its own, as the plain tensor that it holds."""
    return builder_of(function)(*arguments)


def write_torch(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as `torch.save` does; `torch.load(path, weights_only=True)` gives it back.

    The same tensors give the same bytes.

    Args:
        path: the file, which appears only when it is complete.
        tensors: names to arrays, of types that PyTorch has.

    Raises:
        ValueError: PyTorch does not have the type of an array.
    """
    path = Path(path)
    names = {dtype: name for name, dtype in STORAGES.items()}
    for name, value in tensors.items():
        if value.dtype not in names:
            raise ValueError(f"{name} is {value.dtype}, which PyTorch files do not hold")
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)  # ZipInfo has a fixed date

        write("data.pkl", _state_dict_pickle(tensors, names))
        write("byteorder", b"little")
        for number, value in enumerate(tensors.values()):
            write(f"data/{number}", np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes())
        write("version", b"3\n")


def _state_dict_pickle(tensors: Mapping[str, np.ndarray], names: Mapping[np.dtype, str]) -> bytes:
    """Pickles a dict of `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)`.

    Python's own pickler would have to import PyTorch.
    """
    parts = [pickle.PROTO + b"\x02", pickle.EMPTY_DICT, pickle.MARK]
    for number, (name, value) in enumerate(tensors.items()):
        strides = [prod(value.shape[axis + 1 :]) for axis in range(value.ndim)]
        storage = [_text("storage"), _name("torch", names[value.dtype]), _text(str(number)), _text("cpu")]
        parts += [_text(name), _name("torch._utils", "_rebuild_tensor_v2"), pickle.MARK]
        parts += [pickle.MARK, *storage, _integer(value.size), pickle.TUPLE, pickle.BINPERSID]
        parts += [_integer(0), _integers(value.shape), _integers(strides), pickle.NEWFALSE]
        parts += [_name("collections", "OrderedDict"), pickle.EMPTY_TUPLE, pickle.REDUCE, pickle.TUPLE, pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _integer(value: int) -> bytes:
    if value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    data = value.to_bytes(8, "little", signed=True)
    return pickle.LONG1 + bytes([len(data)]) + data


def _integers(values: Any) -> bytes:
    return b"".join([pickle.MARK, *map(_integer, values), pickle.TUPLE])
