"""Files that are not read: each is named for what it is, with what to do, in one line."""

import gzip
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files import save

from resnet_flax import resnet20
from weights_flax import load_weights
from weights_flax.__main__ import main

MODEL = resnet20(width=2)


def table(path):
    """The first and the last bytes of a table of TensorFlow's checkpoints."""
    path.write_bytes(b"\0\0\0\0\x01" + bytes(200) + bytes.fromhex("57fb808b247547db"))


def torch7(path):
    path.write_bytes(struct.pack("<iii", 4, 1, 3) + b"V 1" + struct.pack("<i", 13) + b"nn.Sequential" + bytes(100))


def torch7_table(path):
    path.write_bytes(struct.pack("<iii", 3, 1, 2) + bytes(100))


def equinox(path):
    with path.open("wb") as file:
        for shape in ((3, 3), (4,), ()):
            np.save(file, np.ones(shape, np.float32))


def equinox_with_options(path):
    with path.open("wb") as file:
        file.write(b'{"width": 64}\n')
        np.save(file, np.ones(3))


def caffe(path):
    layer = b"\x0a\x04data\x12\x09Convolution"
    path.write_bytes(b"\x0a\x09ResNet-50\xa2\x06" + bytes([len(layer)]) + layer + bytes(300))


def caffe_of_2013(path):
    path.write_bytes(b"\x0a\x07CaffeNe\x12\x20\x0a\x04data" + bytes(300))


def frozen(path):
    node = b"\x0a\x05input\x12\x0bPlaceholder"
    path.write_bytes(b"\x0a" + bytes([len(node)]) + node + bytes(300))


def torchscript(path):
    save({}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
        archive.writestr("archive/code/__torch__.py", b"")


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


def cut(make, size=None):
    """The start of a file: the first half, or so many bytes."""

    def write(path):
        make(path)
        data = path.read_bytes()
        path.write_bytes(data[: size or len(data) // 2])

    return write


def zipped(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "a")

    return write


class Network:
    """A module as PyTorch pickles it, with its class."""

    def __init__(self):
        self.training, self._parameters, self._modules = True, {}, {}


def bytes_of(data):
    return lambda path: path.write_bytes(data)


STATE = {"fc.weight": [1.0, 2.0], "epoch": 3}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 102540417\n"
FILES = {
    "resnet-50.t7": (torch7, "a .t7 file of Torch7"),
    "a table.t7": (torch7_table, "a .t7 file of Torch7"),
    "torch7 under another name.pth": (torch7, "a .t7 file of Torch7"),
    "resnet50_v1-cc729d95.params": (bytes_of(b"\x12\x01\0\0\0\0\0\0" + bytes(100)), "a .params file of MXNet"),
    "ResNet-50-model.caffemodel": (caffe, "a .caffemodel of Caffe"),
    "old.caffemodel": (caffe_of_2013, "a .caffemodel of Caffe"),
    "caffe.bin": (caffe, "a .caffemodel of Caffe"),
    "resnet_v1_50.ckpt": (table, "a checkpoint of TensorFlow"),
    "model.ckpt-1000.index": (table, "a checkpoint of TensorFlow"),
    "model.ckpt-1000.data-00000-of-00001": (bytes_of(bytes(1000)), "a part of a checkpoint of TensorFlow"),
    "frozen.pb": (frozen, "a frozen graph of TensorFlow"),
    "saved_model.pb": (bytes_of(b"\x08\x01\x12\x05abcde" + bytes(100)), "a saved model of TensorFlow"),
    "net.onnx": (bytes_of(b"\x08\x08\x12\x07pytorch" + bytes(100)), "an ONNX network"),
    "net.tflite": (bytes_of(b"\x1c\0\0\0TFL3" + bytes(100)), "a network of TensorFlow Lite"),
    "net.eqx": (equinox, "Equinox's tree_serialise_leaves"),
    "options.eqx": (equinox_with_options, "a line of options with arrays without names behind it"),
    "one.npy": (lambda path: np.save(path, np.ones(3)), "arrays of NumPy without names"),
    "net.gguf": (bytes_of(b"GGUF\x03\0\0\0" + bytes(100)), "a GGUF file"),
    "net.mat": (bytes_of(b"MATLAB 5.0 MAT-file" + bytes(200)), "a .mat file of MATLAB"),
    "net.pdparams": (
        bytes_of(pickle.dumps(STATE, 2)),
        "a pickle that PyTorch did not write; load it where it is trusted",
    ),
    "protocol 0.pkl": (bytes_of(pickle.dumps(STATE, 0)), "a pickle of protocol 0 or 1"),
    "protocol 1.pkl": (bytes_of(pickle.dumps(STATE, 1)), "a pickle of protocol 0 or 1"),
    "a list of protocol 0.pkl": (bytes_of(pickle.dumps([np.float32, 1], 0)), "a pickle of protocol 0 or 1"),
    "a long one of protocol 0.pkl": (
        bytes_of(pickle.dumps({i: i for i in range(500)}, 0)),
        "a pickle of protocol 0 or 1",
    ),
    "detectron.pkl": (bytes_of(pickle.dumps(STATE, 4)), "a pickle that PyTorch did not write"),
    "script.pt": (torchscript, "a TorchScript network, whose code is not run"),
    "old.pth": (tar, "a tar archive"),
    "net.pth.gz": (bytes_of(gzip.compress(b"abc" * 100)), "it is packed: unpack it"),
    "net.7z": (bytes_of(b"7z\xbc\xaf\x27\x1c" + bytes(50)), "it is packed: unpack it"),
    "empty.pth": (bytes_of(b""), "it is empty, as a download that broke off leaves it"),
    "empty.safetensors": (bytes_of(b""), "it is empty, as a download that broke off leaves it"),
    "page.pth": (bytes_of(b"<!DOCTYPE html><html><body>Quota exceeded"), "a page of HTML, not weights"),
    "page with a mark.pth": (bytes_of(b"\xef\xbb\xbf\n <HTML lang='en'>"), "a page of HTML, not weights"),
    "refused.pth": (bytes_of(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), "it is XML"),
    "pointer.pth": (bytes_of(LFS), "a pointer of git-LFS, not the file itself: `git lfs pull`"),
    "pointer.safetensors": (bytes_of(LFS), "a pointer of git-LFS"),
    "error.json": (bytes_of(b'{"error": "Repository not found"}'), "a text of JSON, not weights"),
    "picture.pth": (bytes_of(b"\x89PNG\r\n\x1a\n" + bytes(100)), "it is an image or a PDF"),
    "zeros.pth": (bytes_of(bytes(1000)), "it begins as none of the known formats does"),
    "zeros again.safetensors": (bytes_of(bytes(1000)), "its bytes are zero, as a download that broke off leaves them"),
    "annex.pth": (
        bytes_of(b"/annex/objects/MD5E-s102540417--1e5ab0b8f0cbbfd3d7.pth\n"),
        "a pointer of git-annex, not the file itself: `git annex get`",
    ),
    "annex as a text.pth": (bytes_of(b"../.git/annex/objects/xK/MD5E-s10--1e5.pth"), "a pointer of git-annex"),
    "not found.pth": (bytes_of(b"Not Found"), "it is a text, not weights ('Not Found'): fetch the file itself"),
    "404.safetensors": (bytes_of(b"404: Not Found\n"), "it is a text, not weights ('404: Not Found')"),
    "denied.pth": (bytes_of(b"Access to this resource was denied\n" * 40), "it is a text, not weights ('Access to"),
    "words.pth": (bytes_of("Zugriff verweigert: größer\n".encode()), "it is a text, not weights ('Zugriff"),
    "cut.pth": (cut(lambda path: save({"fc.bias": 1}, path)), "it is broken off, or damaged: fetch it again"),
    "cut.safetensors": (
        cut(lambda path: save_file({"fc.bias": np.ones(100, np.float32)}, path)),
        "it is broken off, or damaged: fetch it again",
    ),
    "cut in the header.safetensors": (
        cut(lambda path: save_file({"fc.bias": np.ones(3, np.float32)}, path), 40),
        "it is broken off, or damaged: fetch it again",
    ),
    "weights.zip": (
        zipped("readme.txt", "best/resnet50.pth", "best/a.safetensors"),
        "it is a zip archive of 'best/resnet50.pth', 'best/a.safetensors': unpack it",
    ),
    "photos.zip": (zipped("a.jpg", "b.jpg"), "it is a zip archive of 'a.jpg', 'b.jpg': unpack it"),
    "nothing.zip": (zipped(), "it is an empty zip archive"),
    "whole.pth": (
        lambda path: save(Network(), path),
        "test_files.Network', which is neither a tensor nor a container): load it where it is trusted, and save "
        "model.state_dict()",
    ),
    "whole in a checkpoint.pth": (lambda path: save({"epoch": 3, "model": Network()}, path), "it is a whole module"),
    "model-00001-of-00002.safetensors": (
        lambda path: save_file({"fc.bias": np.ones(3, np.float32)}, path),
        "is part 1 of 2 of a network: give the index of all, model.safetensors.index.json, beside them",
    ),
    "noise.pth": (bytes_of(bytes(range(7, 250))), "it begins as none of the known formats does"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_for_what_it_is(name, tmp_path, capsys):
    make, said = FILES[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(ValueError, match=r"^weights '.*'( cannot be read)?: ") as error:
        load_weights(MODEL, path)
    assert said in str(error.value)
    assert main(["inspect", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("weights_flax: error: weights ")
    assert err.count("\n") == 1
    assert said in err


FOLDERS = {
    "a SavedModel": (("saved_model.pb", "keras_metadata.pb", "variables/"), "a SavedModel of TensorFlow"),
    "a distributed checkpoint": ((".metadata", "__0_0.distcp", "__1_0.distcp"), "dcp_to_torch FOLDER whole.pth"),
    "DeepSpeed's root": (("latest", "zero_to_fp32.py", "global_step100/"), "a checkpoint of DeepSpeed"),
    "DeepSpeed's step": (("zero_pp_rank_0_mp_rank_00_optim_states.pt",), "a checkpoint of DeepSpeed"),
    "TensorFlow's checkpoints": (
        ("checkpoint", "model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001"),
        "TensorFlow",
    ),
    "an unpacked file": (("data.pkl", "data/", "version"), "an unpacked file of PyTorch"),
    "parts without an index": (
        ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"),
        "give the index of all, model.safetensors.index.json",
    ),
    "files of other names": (("best.pth", "last.pth", "log.txt"), "name one of its files: 'best.pth', 'last.pth'"),
    "nothing of use": (("log.txt",), "it is no run, and no checkpoint of Orbax"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_named_for_what_it_is(name, tmp_path, capsys):
    entries, said = FOLDERS[name]
    for entry in entries:
        (tmp_path / entry).mkdir() if entry.endswith("/") else (tmp_path / entry).write_text("a")
    with pytest.raises(ValueError, match=r"^weights '.*': ") as error:
        load_weights(MODEL, tmp_path)
    assert said in str(error.value)
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_link_of_git_annex(tmp_path):
    (tmp_path / "best.pth").symlink_to(".git/annex/objects/xK/MD5E-s10--1e5.pth")
    with pytest.raises(ValueError, match=r"there is no such file; it is a link of git-annex: `git annex get`"):
        load_weights(MODEL, tmp_path / "best.pth")
