import contextlib
import http.server
import importlib.util
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from training_flax import open_dataset
from training_flax.prepare_command import _check_reachable, _taken, _whole_or_nothing, is_archive, main

NEEDS_TENSORFLOW = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow, of the extra [prepare], is not installed"
)
ROOT = Path(__file__).parents[3]


def test_without_tensorflow_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(["cifar10", "--data-dir", str(tmp_path / "data")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "prepare: error: preparing a data set needs tensorflow: pip install 'resnet-densenet-flax[prepare]'"
    )
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a b"], "data sets of TFDS are NAME or NAME:VERSION, such as cifar10 or cifar10:3.0.2; given 'a b'"),
        (["cifar10", "--from", "nowhere"], "--from 'nowhere' is not a folder"),
    ],
)
def test_wrong_input_gets_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"prepare: error: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing from python -m training_flax.prepare: NAME A data set of TFDS"),
        (["cifar10", "--form", "x"], "Unrecognized options: --form, x; did you mean '--from'?"),
    ],
)
def test_a_wrong_command_line_gets_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"prepare: error: {message}")
    assert err.count("\n") == 1


def test_what_fails_leaves_nothing_but_whole_downloads(tmp_path):
    data = tmp_path / "new" / "data"
    with pytest.raises(KeyboardInterrupt), _whole_or_nothing(data):
        (data / "pictures" / ".config").mkdir(parents=True)
        (data / "pictures" / ".config" / "metadata.json").write_text("{}")
        (data / "downloads" / "pictures" / "a.zip.tmp.12").mkdir(parents=True)
        (data / "downloads" / "pictures" / "a.zip.tmp.12" / "a.zip").write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    (data / "mine").mkdir(parents=True)
    with pytest.raises(ValueError), _whole_or_nothing(data):
        (data / "downloads").mkdir()
        (data / "downloads" / "a.zip").write_text("whole")
        raise ValueError
    assert sorted(path.name for path in data.rglob("*")) == ["a.zip", "downloads", "mine"]


def test_published_files_are_taken_from_a_folder(tmp_path):
    (tmp_path / "here.tar.gz").write_text("")
    assert _taken(tmp_path, "https://a.org/b/here.tar.gz?x=1") == tmp_path / "here.tar.gz"
    assert _taken(tmp_path, "https://a.org/b/unpacked.tar.gz") == tmp_path
    with pytest.raises(
        ValueError, match=r"has no images-ubyte.gz, which is published at https://a.org/images-ubyte.gz"
    ):
        _taken(tmp_path, "https://a.org/images-ubyte.gz")


@pytest.mark.parametrize(
    "there",
    ["train-idx3-ubyte", "train-idx3-ubyte/train-idx3-ubyte", "train.idx3-ubyte", "train-idx3-ubyte.gz"],
)
def test_compressed_files_may_be_unpacked(there, tmp_path):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("")
    assert _taken(tmp_path, "https://a.org/mnist/train-idx3-ubyte.gz") == tmp_path / there
    assert is_archive(tmp_path / there) == there.endswith(".gz")


def test_a_host_is_reachable_when_it_answers_whatever_it_says():
    pytest.importorskip("requests", reason="requests, which TFDS brings, is not installed")
    server = http.server.HTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    )  # answers 501 to every request
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/x.zip"
    with contextlib.closing(server.socket):
        _check_reachable(address)
        server.shutdown()
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"127.0.0.1 cannot be reached; download http://.*/x.zip elsewhere, and name"):
        _check_reachable(address)
    assert time.perf_counter() - start < 11


def prepare(*arguments):
    # A proxy that does not exist simulates a machine without a network.
    environment = os.environ | {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "training_flax.prepare", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, time.perf_counter() - start


@NEEDS_TENSORFLOW
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10"], "www.cs.toronto.edu cannot be reached; download https://www.cs.toronto.edu/"),
        (["coco/2017"], "cannot be reached; download http://images.cocodataset.org/"),
        (["cifr10"], "unknown data set of TFDS 'cifr10'; did you mean 'cifar10'?"),
        (["cifar10/x"], "data set cifar10 has no configurations; given 'cifar10/x'"),
        (["cifar10:9.9.9"], "cannot be loaded at version 9.9.9, only: 3.0.2."),
        (["cifar10", "--from", "EMPTY"], "No such file or directory"),
        (["mnist", "--from", "EMPTY"], "has no t10k-images-idx3-ubyte.gz, which is published at"),
    ],
)
def test_what_cannot_be_prepared_gets_one_line_and_writes_nothing(arguments, message, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [tmp_path / "empty" if argument == "EMPTY" else argument for argument in arguments]
    done, seconds = prepare(*arguments, "--data-dir", tmp_path / "data")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("prepare: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert seconds < 30  # mostly the import of TensorFlow
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def write_cifar10(folder, train, test):
    """Writes CIFAR-10's binary layout: a byte for the label, and 3072 for the image, channel by channel."""
    folder.mkdir(parents=True)
    batches = np.array_split(np.arange(len(train[1])), 5)
    parts = {f"data_batch_{i + 1}.bin": [part[batch] for part in train] for i, batch in enumerate(batches)}
    for name, (images, labels) in (parts | {"test_batch.bin": test}).items():
        records = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1)
        (folder / name).write_bytes(records.astype(np.uint8).tobytes())
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    return tuple(names)


def pairs(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.fixture(params=["noise", "photographs"])
def cifar10(request):
    """The train and test splits, each (images, labels)."""
    if request.param == "noise":
        rng = np.random.default_rng(0)
        return [(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n)) for n in (50, 20)]
    if "CIFAR10_JPEG" not in os.environ:
        pytest.skip("CIFAR10_JPEG does not name a folder of CIFAR-10 as JPEGs")
    dataset = open_dataset(f"folder:{os.environ['CIFAR10_JPEG']}")
    return [tuple(dataset.train), tuple(dataset.test)]


@NEEDS_TENSORFLOW
@pytest.mark.slow
def test_cifar10_is_prepared_from_published_files_and_read(cifar10, tmp_path):
    names = write_cifar10(tmp_path / "published" / "cifar-10-batches-bin", *cifar10)
    done, _ = prepare("cifar10", "--data-dir", tmp_path / "data", "--from", tmp_path / "published")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == f"cifar10 is prepared in {tmp_path / 'data' / 'cifar10' / '3.0.2'}\n"
    dataset = open_dataset("tfds:cifar10", data_dir=tmp_path / "data")
    assert dataset.class_names == names
    for part, written in zip((dataset.train, dataset.test), cifar10, strict=True):
        assert pairs(*part) == pairs(*written)
    again, _ = prepare("cifar10", "--data-dir", tmp_path / "data")
    assert again.returncode == 0


def write_mnist(folder, splits, unpacked):
    """Writes the four files of MNIST: big-endian numbers of type and shape, and bytes."""
    folder.mkdir()
    for name, (images, labels) in splits.items():
        files = {f"{name}-images-idx3-ubyte": (0x803, images), f"{name}-labels-idx1-ubyte": (0x801, labels)}
        for file, (magic, values) in files.items():
            data = struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.astype(np.uint8).tobytes()
            if unpacked == "beside each other":
                (folder / file).write_bytes(data)
            else:
                (folder / file).mkdir()
                (folder / file / file).write_bytes(data)


@NEEDS_TENSORFLOW
@pytest.mark.slow
@pytest.mark.parametrize("unpacked", ["beside each other", "in folders"])
def test_mnist_is_prepared_from_its_unpacked_files(unpacked, tmp_path):
    """The numbers of images are in the builder's code, so the files are as long as the published ones."""
    rng = np.random.default_rng(0)
    counts = {"train": 60_000, "t10k": 10_000}
    splits = {n: (rng.integers(0, 256, (c, 28, 28), np.uint8), rng.integers(0, 10, c)) for n, c in counts.items()}
    write_mnist(tmp_path / "published", splits, unpacked)
    done, _ = prepare("mnist", "--data-dir", tmp_path / "data", "--from", tmp_path / "published")
    assert done.returncode == 0, done.stderr
    dataset = open_dataset("tfds:mnist", data_dir=tmp_path / "data")
    for part, written in zip((dataset.train, dataset.test), splits.values(), strict=True):
        assert sorted(map(bytes, part.images)) == sorted(map(bytes, written[0]))
