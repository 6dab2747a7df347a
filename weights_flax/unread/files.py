"""Formats that are not read, by the bytes of a file; its name counts only where the bytes tell nothing."""

import pickletools
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

KNOWN = "safetensors, PyTorch, .npz, HDF5 of Keras, msgpack of Flax"
NOTHING_KNOWN = f"it begins as none of the known formats does: {KNOWN}"
RESAVE = "read it there, and write its tensors as safetensors or by torch.save"
KERAS_OR_NPZ = "load it there, and write the network by model.save_weights('x.weights.h5') or its arrays by numpy.savez"
TABLE_END = bytes.fromhex("57fb808b247547db")  # of LevelDB's tables, which TensorFlow's checkpoints are
START = 512  # bytes of a file that are looked at

Test = Callable[[bytes], bool]


def _begins(*starts: bytes) -> Test:
    return lambda start: start.startswith(starts)


def _text(pattern: str) -> Test:
    return lambda start: re.match(rb"\s*(?:\xef\xbb\xbf)?\s*" + pattern.encode(), start, re.I | re.S) is not None


def _torch7(start: bytes) -> bool:
    """A table (3) or an object (4), the first of the file, as integers of four or eight bytes."""
    numbers = [[int.from_bytes(start[size * i : size * (i + 1)], "little") for i in range(2)] for size in (4, 8)]
    return any(kind in (3, 4) and index == 1 for kind, index in numbers)


def _npy_behind_text(start: bytes) -> bool:
    line, _, rest = start.partition(b"\n")
    return line[:1] in (b"{", b"[") and rest.startswith(b"\x93NUMPY")


def _caffe(start: bytes) -> bool:
    """A network's name as the first field, then layers: field 2 (before 2014) or 100, or the fields of inputs."""
    size = start[1] if len(start) > 1 else 0
    if start[:1] != b"\n" or not 0 < size < 0x80 or not start[2 : 2 + size].isascii():
        return False
    behind = start[2 + size :]
    return start[2 : 2 + size].decode().isprintable() and behind.startswith((b"\x12", b"\x1a", b"\x22", b"\xa2\x06"))


def _graph_def(start: bytes) -> bool:
    """A first node of TensorFlow: its name, and an operation."""
    return start[:1] == b"\n" and re.match(rb"\n.{1,2}\n.{1,120}\x12.[A-Z][A-Za-z0-9]+", start, re.S) is not None


def _old_pickle(start: bytes) -> bool:
    """Opcodes of protocol 0 or 1 to the end of what is seen, with a container or a name among them."""
    seen, stream = set(), BytesIO(start)
    try:
        for opcode, _, _ in pickletools.genops(stream):
            seen.add(opcode.name)
    except Exception as error:  # the start of a file may end within an argument; a text has other letters in it
        if len(seen) < 3 or "unknown" in str(error) or len(start) < START:
            return False
    containers = {"MARK", "DICT", "LIST", "TUPLE", "EMPTY_DICT", "EMPTY_LIST", "GLOBAL", "INST"}
    return bool(seen & containers) and "PROTO" not in seen


# Each with what it is and what to do; the first that fits is told.
FORMATS: tuple[tuple[Test, str], ...] = (
    (
        _text(r"version https?://git-lfs\.github\.com"),
        "it is a pointer of git-LFS, not the file itself: `git lfs pull` in its repository brings the file",
    ),
    (
        _text(r"<(?:!doctype\s+html|html|head)"),
        "it is a page of HTML, not weights: open its address in a browser, and download the file that it leads to",
    ),
    (_text(r"<(?:\?xml|error)"), "it is XML, such as a server's refusal, not weights: download the file again"),
    (_begins(b"GGUF", b"ggml", b"lmgg", b"tjgg"), f"it is a GGUF file of ggml, which is not read: {RESAVE}"),
    (
        _begins(b"\x12\x01\0\0\0\0\0\0"),
        "it is a .params file of MXNet, which is not read: load it there by mx.nd.load, and write the arrays by "
        "numpy.savez, or take the network's conversion of timm (resnet50.gluon_in1k)",
    ),
    (
        _torch7,
        "it is a .t7 file of Torch7 (Lua), which is not read: load it by the package torchfile, and write its tensors "
        "by torch.save under torchvision's names",
    ),
    (
        _begins(b"\x93NUMPY"),
        "it is arrays of NumPy without names: one .npy, or several behind each other as Equinox's "
        "tree_serialise_leaves writes them; load it there, and write the arrays with their names by numpy.savez",
    ),
    (
        _npy_behind_text,
        "it is a line of options with arrays without names behind it, as Equinox' users write them: load it there, and "
        "write the arrays with their names by numpy.savez",
    ),
    (lambda start: start[4:8] == b"TFL3", f"it is a network of TensorFlow Lite, which is not read: {KERAS_OR_NPZ}"),
    (
        _begins(b"MATLAB 5.0"),
        "it is a .mat file of MATLAB (MatConvNet), which is not read: load it by scipy.io.loadmat, and write its "
        "arrays by numpy.savez",
    ),
    (
        _begins(b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!"),
        "it is packed: unpack it",
    ),
    (
        lambda start: start[257:262] == b"ustar",
        "it is a tar archive: unpack it; if it is one that PyTorch before version 0.2 wrote, load it there and save it "
        "again by torch.save",
    ),
    (_begins(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF"), f"it is an image or a PDF; {NOTHING_KNOWN}"),
    (
        lambda start: start[:1] == b"\x08" and len(start) > 2 and 0 < start[1] < 32 and start[2] in (0x12, 0x3A),
        "it is an ONNX network or a saved model of TensorFlow, a graph whose weights have no layers' names that are "
        f"known: {RESAVE}",
    ),
    (
        _graph_def,
        f"it is a frozen graph of TensorFlow, which is not read: {KERAS_OR_NPZ}",
    ),
    (
        _caffe,
        "it is a .caffemodel of Caffe, which is not read: load it by caffe or cv2.dnn, and write its blobs by "
        "numpy.savez under torchvision's names",
    ),
    (
        _old_pickle,
        "it is a pickle of protocol 0 or 1, which is not read: load it where it is trusted, and write its tensors by "
        "torch.save or numpy.savez",
    ),
    (
        lambda start: re.match(rb"(\.\./)*\.git/annex/objects/|/annex/objects/", start) is not None,
        "it is a pointer of git-annex, not the file itself: `git annex get` in its repository brings the file",
    ),
    (_text(r"\{"), "it is a text of JSON, not weights: a config, or an index of shards under another name"),
)
# Files whose bytes have no mark.
NAMES: tuple[tuple[str, str], ...] = (
    (
        r"\.data-\d{5}-of-\d{5}$",
        f"it is a part of a checkpoint of TensorFlow (slim and others), which is not read: {KERAS_OR_NPZ}",
    ),
    (r"\.caffemodel$", "it is a .caffemodel of Caffe, which is not read: write its blobs by numpy.savez"),
    (r"\.pdparams$", f"it is a file of PaddlePaddle, which is not read: {RESAVE}"),
    (r"\.weights$", f"it is a file of Darknet, which is not read: {RESAVE}"),
)


def unread_format(path: Path, start: bytes, end: bytes) -> str:
    """Tells what a file is that no reader here takes, and what to do with it, for the end of an error message.

    Args:
        path: the file, of which only the name counts here.
        start: the first `START` bytes.
        end: the last 8 bytes.
    """
    if not start:
        return f"it is empty, as a download that broke off leaves it: fetch it again ({NOTHING_KNOWN})"
    if end == TABLE_END:
        return f"it is a checkpoint of TensorFlow (slim and others), which is not read: {KERAS_OR_NPZ}"
    for fits, said in FORMATS:
        if fits(start):
            return said
    for pattern, said in NAMES:
        if re.search(pattern, path.name):
            return said
    if not any(start) and not any(end):
        return f"its bytes are zero, as a download that broke off leaves them: fetch it again ({NOTHING_KNOWN})"
    line = start.split(b"\n", 1)[0].strip().decode("utf-8", "replace")
    if len(line) > 1 and line.isprintable() and "\ufffd" not in line[:-1]:
        return f"{NOTHING_KNOWN}; it is a text, not weights ({line[:60]!r}): fetch the file itself"
    return NOTHING_KNOWN
