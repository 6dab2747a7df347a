"""Small files that ask for much: each is refused in one line, soon and in little memory."""

import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import hostile
import numpy as np
import pytest
from drawn import drawn
from safetensors.numpy import save

from resnet_flax import resnet20, to_torch
from weights_flax import save_weights
from weights_flax.formats.open import open_weights

MODEL = resnet20(width=4)
RIGHT = to_torch(MODEL, drawn(MODEL))
ABOUT = {"arch": "resnet20", "options": {"width": 4}, "num_classes": 10}
MB = 2**20


def sparse(start, size):
    """Returns a maker of a file of `size` bytes, of which only the first are on the disk."""

    def make(path):
        path.write_bytes(start)
        os.truncate(path, size)

    return make


def holding(data):
    return lambda path: path.write_bytes(data())


def npy(shape, data=b""):
    return hostile.npy({"descr": "<f4", "fortran_order": False, "shape": shape}, data)


def zipped(*entries):
    """Returns the bytes of a zip file of entries (name, start, number of zero megabytes behind it)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, start, zeros in entries:
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(start)
                for _ in range(zeros):
                    entry.write(bytes(MB))
    return file.getvalue()


def empty_entries(number):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(number):
            archive.writestr(f"{index}.npy", b"")
    return file.getvalue()


def shared_storage():
    """Returns the bytes of a file of PyTorch in which 200 tensors are the same 16 MB."""
    size = 4 * MB
    one = hostile.tensor(size=size, shape=(size,))
    inside = one[3 + 5 + 7 : -2]  # the tensor without its dict and its name, and without the end
    names = b"".join(b"X\x02\0\0\0" + f"{index:02x}".encode() + inside + b"s" for index in range(200))
    return hostile.torch_zip(b"\x80\x02}" + names + b".", [bytes(4 * size)])


def encoded_often(number):
    """Returns the bytes of a file of PyTorch that turns one text of a megabyte into bytes again and again."""
    text = b"c_codecs\nencode\nq\x00X" + struct.pack("<I", MB) + bytes(MB) + b"q\x01X\x06\0\0\0latin1q\x02"
    return hostile.torch_zip(b"\x80\x02(" + text + b"h\x00h\x01h\x02\x86R" * number + b"t.")


def text_of_pickle(size):
    return hostile.torch_zip(b"\x80\x02X" + struct.pack("<I", size) + bytes(100) + b".")


def hdf5(fill):
    def make(path):
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            fill(h5py, file)

    return make


def nested(h5py, file):
    for _ in range(300):
        file = file.create_group("a")


def virtual(h5py, file):
    layout = h5py.VirtualLayout((10,), "<f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (10,))
    file.create_virtual_dataset("v", layout)


def card(**changes):
    return holding(lambda: save(RIGHT, {"model": json.dumps(ABOUT | changes)}))


def card_text(text):
    return holding(lambda: save(RIGHT, {"model": text}))


def spec(shape):
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}


def bound_socket(path):
    # The path of a socket must be short.
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


LARGE = hostile.safetensors({"conv1.weight": spec([2**36]) | {"data_offsets": [0, 2**38]}})
FILES = {
    "npz, a header of 2 GB": (
        holding(lambda: zipped(("a.npy", b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31 - 1), 640))),
        "EOF: reading array header",
    ),
    "npz, zeros in four arrays": (
        holding(lambda: zipped(*((f"params/{i}/kernel.npy", npy((40 * MB,)), 160) for i in range(4)))),
        "its tensors would take 671,088,640 bytes, but only",
    ),
    "npz, 200,000 entries": (holding(lambda: empty_entries(200_000)), "its list of entries has 11,088,890 bytes"),
    "npz, 20,000 entries": (holding(lambda: empty_entries(20_000)), "it has 20,000 entries, more than 16,384"),
    "PyTorch, one storage in 200 tensors": (holding(shared_storage), "its tensors would take 3,355,443,200 bytes"),
    "PyTorch, a text that is encoded 5,000 times": (
        holding(lambda: encoded_often(5000)),
        "it has no tensors",
    ),
    "PyTorch, a text of 4 GB": (holding(lambda: text_of_pickle(2**32 - 1)), "its pickle has a part of 4,294,967,295"),
    "PyTorch, a text of 100 MB that is not there": (holding(lambda: text_of_pickle(10**8)), "cannot be read: "),
    "msgpack, 100 GB of nothing": (sparse(b"\x81\xa6params", 10**11), "99,999,999,991 bytes follow its end"),
    "msgpack, 4 GB of bytes": (sparse(b"\x81\xa6params\xc6\xff\xff\xff\xff", 2**33), "bytes follow its end"),
    "msgpack, 4 GB of text": (sparse(b"\x81\xa6params\xdb\xff\xff\xff\xff", 2**33), "a text of 4,294,967,295 bytes"),
    "msgpack, 4 GB of keys": (sparse(b"\xdf\xff\xff\xff\xff", 2**33), "its msgpack is damaged (TypeError)"),
    "msgpack, a million dicts in dicts": (holding(lambda: b"\x81\xa1a" * 10**6), "or more than 32 in each other"),
    "msgpack, two million lists": (
        holding(lambda: b"\x81\xa1a\xdd\x00\x20\x00\x00" + b"\x90" * 2**21),
        "its msgpack has more than 131,072 parts",
    ),
    "msgpack, a tensor beyond its end": (
        holding(lambda: b"\x81\xa1a\xc7\x14\x01\x93\x91\xce\xff\xff\xff\xff\xa7float32\xc6\xff\xff"),
        "its msgpack ends too early",
    ),
    "safetensors, 256 GB of another network": (
        sparse(LARGE, len(LARGE) + 2**38),
        "missing: ",
    ),
    "safetensors, 100,000 tensors": (
        holding(lambda: hostile.safetensors({f"layer1.{i}.conv1.weight": spec([0]) for i in range(100_000)})),
        "it has 100,000 tensors, more than 16,384",
    ),
    "safetensors, a name of a megabyte": (
        holding(lambda: hostile.safetensors({"a" * MB: spec([0])})),
        "it has a name of 1,048,576 characters, more than 1,000",
    ),
    "safetensors, dicts in dicts": (holding(lambda: hostile.safetensors(b'{"a":' * 10**5)), "recursion limit"),
    "HDF5, 4 TB that were never written": (
        hdf5(lambda _, file: file.create_dataset("conv1/kernel:0", (2**20, 2**20), "<f4", chunks=(1024, 1024))),
        "its tensors would take 4,398,046,511,104 bytes, but only",
    ),
    "HDF5, the same compressed": (
        hdf5(lambda _, file: file.create_dataset("a", (2**20, 2**20), "<f4", chunks=(9, 9), compression="gzip")),
        "its tensors would take 4,398,046,511,104 bytes, but only",
    ),
    "HDF5, 300 groups in each other": (hdf5(nested), "or more than 64 in each other"),
    "HDF5, an array in another file": (hdf5(virtual), "'v' is kept in another file"),
    "HDF5, links alone": (
        hdf5(lambda h5py, file: file.update({"a": h5py.ExternalLink("/etc/passwd", "/a"), "b": h5py.SoftLink("/b")})),
        "it has no tensors",
    ),
    "HDF5, an array without a shape": (hdf5(lambda h5py, file: file.update({"a": h5py.Empty("f")})), "has no tensors"),
    "card, width 10**7": (card(options={"width": 10**7}), "misshapen: bn1.bias (4,), not (10000000,)"),
    "card, width 10**9": (card(options={"width": 10**9}), "its card is damaged: options"),
    "card, width below zero": (card(options={"width": -4}), "width must be a positive integer; given -4"),
    "card, a width of truth": (card(options={"width": True}), "width must be a positive integer; given True"),
    "card, 10**10 classes": (card(num_classes=10**10), "num_classes must be an integer of at most 16777216"),
    "card, classes below zero": (card(num_classes=-1), "its card is damaged: num_classes must be an integer"),
    "card, images of 10**9 pixels a side": (card(image_shape=[10**9, 10**9, 3]), "image_shape[0] must be an integer"),
    "card, images of 30,000 pixels a side": (
        card(image_shape=[30_000, 30_000, 3]),
        "image_shape must have at most 16,777,216 pixels; given 30000×30000",
    ),
    "card, an image of one side": (card(image_shape=[32]), "its card is damaged: image_shape must be"),
    "card, 1,202 layers": (card(arch="resnet1202"), "whose stages have (200, 200, 200) blocks"),
    "card, a million groups": (card(arch="resnext50_32x4d", options={"groups": 10**6}), ""),
    "card, growth of a million": (card(arch="densenet121", options={"growth_rate": 10**6}), ""),
    "card, an architecture of escapes": (card(arch="\x1b[2J\nresnet20"), r"unknown arch '\x1b[2J\nresnet20'"),
    "card, a list for an architecture": (card(arch=["resnet20"]), "its card is damaged: arch must be a string"),
    "card, options in a list": (card(options=[]), "its card is damaged: options must be an object"),
    "card, an option of Flax": (card(options={"parent": 1}), "parent"),
    "card, a type": (card(options={"dtype": "object"}), "dtype"),
    "card, means of text": (card(normalisation={"mean": ["a"], "std": [1]}), "its card is damaged: normalisation.mean"),
    "card, classes that are a number": (card(class_names=5), "its card is damaged: class_names must be a list"),
    "card, lists in lists": (card_text('{"a":' + "[" * 10**5), "nested too deep"),
    "card, two architectures": (card_text('{"arch":"resnet20","arch":"resnet32"}'), "'arch' stands twice"),
    "card, a number of 10**5 digits": (card_text('{"num_classes":' + "9" * 10**5 + "}"), "more than 20 digits"),
    "a pipe": (os.mkfifo, "it is a pipe, not a regular file"),
    "a socket": (bound_socket, "it is a socket, not a regular file"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a regular file"),
    "a terminal": (lambda path: path.symlink_to("/dev/tty"), "it is a device, not a regular file"),
}

CHILD = '''
import json, sys, time
from pathlib import Path
from weights_flax import load_model, load_weights
from resnet_flax import resnet20
model = resnet20(width=4)
def peak():
    """Peak memory of this process in MB; getrusage would begin with that of its parent."""
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    start, said = time.process_time(), None
    try:
        load_model(path) if path.name.startswith("card") else load_weights(model, path)
    except ValueError as error:
        said = str(error)
    found[path.name] = (said, time.process_time() - start, peak())
print(json.dumps(found))
'''


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    """Reads all files in one process; returns what it says of each, its seconds, and its peak memory in MB."""
    folder = tmp_path_factory.mktemp("sizes")
    names = {}
    for number, (name, (make, _)) in enumerate(FILES.items()):
        path = folder / f"{'card' if name.startswith('card') else 'file'}{number}"
        make(path)
        names[path.name] = name
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,  # a wait for a pipe takes no time of the processor
        cwd=Path(__file__).parents[3],
    )
    return {names[name]: value for name, value in json.loads(done.stdout).items()}


@pytest.mark.parametrize("name", FILES)
def test_one_line_soon_and_in_little_memory(met, name):
    said, seconds, peak = met[name]
    assert said is not None
    assert FILES[name][1] in said
    assert "\n" not in said
    assert len(said) < 1200
    assert seconds < 5
    assert peak < 500  # of which JAX needs 220


def test_what_is_allowed_is_read(tmp_path):
    """Bounds are far from real files: compressed weights, and cards of many classes."""
    np.savez_compressed(tmp_path / "a.npz", **{f"params/{i}/kernel": np.zeros((64, 64)) for i in range(100)})
    assert len(open_weights(tmp_path / "a.npz").tensors) == 100
    model = resnet20(width=4, num_classes=20_000)
    names = [f"class {i}" for i in range(20_000)]
    path = save_weights(model, drawn(model), tmp_path / "a.safetensors", class_names=names, image_shape=(4096, 4096, 3))
    assert open_weights(path).card["class_names"] == names
