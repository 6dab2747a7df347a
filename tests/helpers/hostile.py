"""Files of weights that are wrong in one way each, and what is said of them."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np

from weights_flax.formats.torch import MAGIC_NUMBER, write_torch


class Calls:
    """Pickled, an order to call a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def torch_zip(pickled, storages=(), compression=zipfile.ZIP_STORED, byteorder=b"little"):
    """The bytes of a file of `torch.save` with this data.pkl and these storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder, zipfile.ZIP_STORED)
        for number, data in enumerate(storages):
            archive.writestr(f"archive/data/{number}", data)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def torch_legacy(*pickles, rest=b""):
    """The bytes of an old file of `torch.save`: numbers, then what is given."""
    start = [pickle.dumps(value, 2) for value in (MAGIC_NUMBER, 1001, {"little_endian": True})]
    return b"".join([*start, *pickles, rest])


def tensor(
    name=b"fc.bias",
    *,
    kind=b"FloatStorage",
    module=b"torch",
    size=10,
    offset=0,
    shape=(10,),
    strides=(1,),
    rebuild=b"ctorch._utils\n_rebuild_tensor_v2\n",
):
    """The opcodes of a dict of one tensor."""

    def integer(value):
        return pickle.dumps(value, 2)[2:-1]

    def integers(values):
        return b"(" + b"".join(map(integer, values)) + b"t"

    storage = (
        b"(X\x07\0\0\0storagec" + module + b"\n" + kind + b"\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu" + integer(size) + b"tQ"
    )
    key = b"X" + struct.pack("<I", len(name)) + name
    arguments = b"(" + storage + integer(offset) + integers(shape) + integers(strides) + b"\x89)t"
    return b"\x80\x02}" + key + rebuild + arguments + b"Rs."


def npy(header, data=b""):
    """The bytes of an .npy file with this header."""
    text = header.encode() if isinstance(header, str) else repr(header).encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data


def npz(**entries):
    """The bytes of an .npz file of such entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def safetensors(header, data=b"", length=None):
    """The bytes of a file of safetensors with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def of_torch(tensors, tmp_path):
    """The bytes of a right file of PyTorch."""
    write_torch(tmp_path / "right.pt", tensors)
    return (tmp_path / "right.pt").read_bytes()


def ones(shape=(10,), dtype=np.float32):
    """Values for a tensor."""
    return np.ones(shape, dtype).tobytes()
