"""Files that are hostile or wrong: each gives one clear line, soon and in little memory, and no code in it runs."""

import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import hostile
import ml_dtypes
import numpy as np
import pytest
from drawn import drawn
from flax import serialization
from safetensors.numpy import save

from resnet_flax import resnet20, to_torch
from weights_flax import load_weights, save_weights
from weights_flax.formats.pickles import MOST_OPCODES

MARKER = "something-ran"  # in the child's folder
MODEL = resnet20(width=4)


RIGHT = to_torch(MODEL, drawn(MODEL))
KERNEL = "layer2.0.conv1.weight"
ORDER = hostile.Calls(os.system, f"touch {MARKER}")
PICKLES = {
    "calls os.system": pickle.dumps(ORDER, 2),
    "calls it in protocol 4": pickle.dumps({"state_dict": ORDER}, 4),
    "calls eval": pickle.dumps(hostile.Calls(builtins.eval, f"open({MARKER!r}, 'w')"), 2),
    "calls exec beside numbers": pickle.dumps(
        {"fc.bias": [1.0], "x": hostile.Calls(builtins.exec, f"open({MARKER!r}, 'w').close()")}, 2
    ),
    "calls a class": pickle.dumps(hostile.Calls(subprocess.Popen, ["touch", MARKER]), 2),
    "calls by INST": b"(S'touch " + MARKER.encode() + b"'\nios\nsystem\n.",
    "calls by OBJ": b"(cos\nsystem\nS'touch " + MARKER.encode() + b"'\no.",
    "makes an object of a class": b"\x80\x02csubprocess\nPopen\n(]X\x05\0\0\0touchat\x81.",
    "sets the state of a class": b"\x80\x02cos\n_Environ\n)\x81}X\x01\0\0\0aK\x01sb.",
    "names a function without calling it": b"\x80\x02}X\x01\0\0\0acos\nsystem\ns.",
    "an extension of copyreg": b"\x80\x02\x82\x01).",
    "calls a string": b"\x80\x02X\x02\0\0\0os(X\x01\0\0\0atR.",
    "a memo of billions": b"\x80\x02}r\xff\xff\xff\xff.",
    "a text of 2**60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a.",
    "a byte array of 2**40 bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
    "millions of opcodes": b"\x80\x02" + b"N0" * (MOST_OPCODES // 2) + b"N0N.",
    "tuples in tuples as a key": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
    "dicts in dicts": b"\x80\x02" + b"}X\x01\0\0\0a" * 1000 + b"N" + b"s" * 1000 + b".",
    "a dict in itself": b"\x80\x02}q\0X\x01\0\0\0ah\0s.",
    "a stack that is empty": b"\x80\x020000.",
    "no end": b"\x80\x02}",
    "no pickle": b"what?",
    "a text with a wrong escape": b"\x80\x02S'\\('\n.",
    "a text of a megabyte without quotes": b"\x80\x02S" + b"\xe9a" * 500_000 + b"\n.",
    "a whole module of PyTorch": b"\x80\x02ctorchvision.models.resnet\nResNet\n)\x81}X\x08\0\0\0trainingI00\nsb.",
    "a list": b"\x80\x02].",
    "numbers alone": pickle.dumps({"fc.bias": [1.0, 2.0]}, 2),
}
VIEWS = {
    "beyond its storage": dict(shape=(11,)),
    "an offset beyond its storage": dict(offset=10**6),
    "an offset below zero": dict(offset=-1),
    "strides below zero": dict(strides=(-1,)),
    "as many strides as it likes": dict(strides=(1, 1)),
    "one number shown 2**40 times": dict(shape=(2**20, 2**20), strides=(0, 0)),
    "a storage of 2**62 numbers": dict(size=2**62),
    "a storage of less than none": dict(size=-10),
    "complex numbers": dict(kind=b"ComplexFloatStorage"),
    "a storage that is a function": dict(module=b"os", kind=b"system"),
    "rebuilt by a function": dict(rebuild=b"cos\nsystem\n"),
    "a shape of 33 axes": dict(shape=(1,) * 33, strides=(1,) * 33),
}


def safetensors_of(**changes):
    tensors = {name: value for name, value in {**RIGHT, **changes}.items() if value is not None}
    return save(tensors)


def changed(name, change):
    return safetensors_of(**{name: change(RIGHT[name])})


def with_value(value):
    def change(array):
        array = array.copy()
        array.flat[3] = value
        return array

    return change


def zeros_entry(size):
    """Returns an .npy of zeros, compressed to a thousandth."""
    return npy((size // 4,), data=bytes(size))


def two_pickles():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", hostile.tensor())
        archive.writestr("b/data.pkl", hostile.tensor())
    return file.getvalue()


def spec(start, end, shape=(10,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


START = pickle.dumps(hostile.MAGIC_NUMBER, 2)
STORED = hostile.torch_zip(hostile.tensor(), [hostile.ones()])


def npy(shape, descr="<f4", data=bytes(64)):
    return hostile.npy({"descr": descr, "fortran_order": False, "shape": shape}, data)


FILES = {
    **{f"PyTorch, {name}": hostile.torch_zip(data) for name, data in PICKLES.items()},
    **{f"legacy, {name}": hostile.torch_legacy(data) for name, data in PICKLES.items()},
    **{f"a bare pickle, {name}": data for name, data in PICKLES.items() if name.startswith("calls")},
    **{f"PyTorch, {name}": hostile.torch_zip(hostile.tensor(**view), [hostile.ones()]) for name, view in VIEWS.items()},
    **{
        f"legacy, {name}": hostile.torch_legacy(
            hostile.tensor(**view), pickle.dumps(["0"], 2), rest=struct.pack("<q", 10) + hostile.ones()
        )
        for name, view in VIEWS.items()
    },
    "legacy, an order in its system": pickle.dumps(hostile.MAGIC_NUMBER, 2)
    + pickle.dumps(1001, 2)
    + PICKLES["calls eval"],
    "legacy, another version": START + pickle.dumps(1002, 2),
    "legacy, no storage": hostile.torch_legacy(hostile.tensor(), pickle.dumps([], 2)),
    "legacy, a storage of another size": hostile.torch_legacy(
        hostile.tensor(), pickle.dumps(["0"], 2), rest=struct.pack("<q", 2**60)
    ),
    "PyTorch, deflated zeros for a pickle": hostile.torch_zip(bytes(2**28), compression=zipfile.ZIP_DEFLATED),
    "PyTorch, deflated zeros for a tensor": hostile.torch_zip(
        hostile.tensor(size=2**26, shape=(2**26,)), [bytes(2**28)], zipfile.ZIP_DEFLATED
    ),
    "PyTorch, a pickle of 20 MB": hostile.torch_zip(b"\x80\x02" + bytes(20_000_000)),
    "PyTorch, no storage": hostile.torch_zip(hostile.tensor()),
    "PyTorch, a storage of another size": hostile.torch_zip(hostile.tensor(), [hostile.ones((11,))]),
    "PyTorch, big-endian": hostile.torch_zip(hostile.tensor(), [hostile.ones()], byteorder=b"big"),
    "PyTorch, two pickles": two_pickles(),
    "PyTorch, a byte changed": hostile.torch_zip(hostile.tensor(), [hostile.ones()]).replace(
        b"\x80\x3f", b"\x81\x3f", 1
    ),
    "a zip of nothing": b"PK\x05\x06" + bytes(18),
    "npz, objects": hostile.npz(a=npy((1,), "|O", PICKLES["calls eval"])),
    "npz, a header that calls": hostile.npz(a=hostile.npy(f"__import__('os').system('touch {MARKER}')")),
    "npz, a header of terabytes": hostile.npz(a=npy((2**40,))),
    "npz, shapes below zero": hostile.npz(a=npy((-4, -4))),
    "npz, zeros deflated to a thousandth": hostile.npz(**{"params/fc/bias": zeros_entry(2**28)}),
    "npz, other names": hostile.npz(a=zeros_entry(64)),
    "safetensors, overlapping": hostile.safetensors({"a": spec(0, 40), "b": spec(20, 60)}, bytes(60)),
    "safetensors, a hole": hostile.safetensors({"a": spec(0, 40), "b": spec(80, 120)}, bytes(120)),
    "safetensors, offsets beyond the file": hostile.safetensors({"a": spec(0, 2**50, (2**48,))}, bytes(60)),
    "safetensors, offsets of 2**63": hostile.safetensors({"a": spec(2**63, 2**63 + 40)}, bytes(60)),
    "safetensors, offsets of another size": hostile.safetensors({"a": spec(0, 44)}, bytes(44)),
    "safetensors, offsets below zero": hostile.safetensors({"a": spec(-4, 36)}, bytes(60)),
    "safetensors, shapes that overflow": hostile.safetensors({"a": spec(0, 40, (2**33, 2**33))}, bytes(60)),
    "safetensors, a header of 2**60 bytes": hostile.safetensors(b"{}", length=2**60),
    "safetensors, a header of 90 MB": hostile.safetensors(b"{" + b" " * 90_000_000),
    "safetensors, no JSON": hostile.safetensors(b"{'a': 1}"),
    "safetensors, an unknown type": hostile.safetensors({"a": spec(0, 10, dtype="F8_E4M3")}, bytes(10)),
    "safetensors, nothing": hostile.safetensors({}),
    "HDF5, a start alone": b"\x89HDF\r\n\x1a\n" + bytes(1000),
    "msgpack, lists in lists": b"\x81\xa1a" + b"\xdd\x00\xff\xff\xff" * 500,
    "msgpack, a tensor of too few bytes": serialization.msgpack_serialize(
        {"params": {"a": np.ones(4, np.float32)}}
    ).replace(b"\x91\x04", b"\x91\x7f"),
    "msgpack, numbers alone": serialization.msgpack_serialize({"a": 1, "b": [1, 2]}),
    "empty": b"",
    "a text": b"weights = 1\n" * 100,
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "NaN": changed(KERNEL, with_value(np.nan)),
    "infinite": changed("bn1.running_var", with_value(np.inf)),
    "too large for float32": changed(KERNEL, lambda a: with_value(1e300)(a.astype(np.float64))),
    "integers": changed(KERNEL, lambda a: a.astype(np.int32)),
    "truth values": changed(KERNEL, lambda a: a > 0.5),
    "another architecture": save({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}),
    "a deeper network": safetensors_of(**{"layer1.3.conv1.weight": RIGHT["layer1.2.conv1.weight"]}),
    "missing": safetensors_of(**{KERNEL: None}),
    "missing half": save({name: RIGHT[name] for name in list(RIGHT)[::2]}),
    "misshapen": changed(KERNEL, lambda a: a[1:]),
    "misshapen with as many values": changed(KERNEL, lambda a: a.reshape(-1)),
    "no axes": changed("fc.bias", lambda a: a.sum()[None].reshape(())),
    "of no size": changed(KERNEL, lambda a: a[:0]),
    "a head of another size": safetensors_of(
        **{"fc.weight": np.ones((7, 16), np.float32), "fc.bias": np.ones(7, np.float32)}
    ),
    "half a head of another size": safetensors_of(**{"fc.bias": np.ones(7, np.float32)}),
    "names of no one": save({"a.b": np.ones(3, np.float32)}),
}
SAID = {
    "PyTorch, calls os.system": "it names 'posix.system', which is neither a tensor nor a container",
    "PyTorch, calls eval": "it names '__builtin__.eval', which is neither",
    "PyTorch, a whole module of PyTorch": "it names 'torchvision.models.resnet.ResNet'",
    "a bare pickle, calls os.system": "it is a pickle that PyTorch did not write",
    "PyTorch, deflated zeros for a pickle": "its entry 'archive/data.pkl' is compressed",
    "PyTorch, beyond its storage": "goes beyond its storage of 10",
    "PyTorch, one number shown 2**40 times": "goes beyond its storage of 10",
    "PyTorch, a list": "it holds no dict of tensors, but a list",
    "PyTorch, big-endian": "its numbers are big-endian",
    "legacy, a storage of another size": "its storage '0' has another size than its tensors say",
    "npz, objects": "'a.npy' holds objects, not numbers",
    "npz, zeros deflated to a thousandth": "missing: ",
    "safetensors, a header of 90 MB": "its header of 90,000,001 bytes is over 33,554,432",
    "safetensors, an unknown type": "'a' is F8_E4M3, which NumPy does not have",
    "empty": "it begins as none of the known formats does",
    "NaN": f"{KERNEL} has 1 of 288 values that are not finite in float32",
    "infinite": "bn1.running_var has 1 of 4 values that are not finite",
    "too large for float32": f"{KERNEL} has 1 of 288 values that are not finite in float32",
    "integers": f"{KERNEL} is int32, not a type of floating point",
    "another architecture": "are not those of resnet20: state dict does not fit the model; missing: ",
    "a deeper network": "unused: layer1.3.conv1.weight",
    "missing": f"missing: {KERNEL}",
    "misshapen": f"misshapen: {KERNEL} (7, 4, 3, 3), not (8, 4, 3, 3)",
    "a head of another size": "have 7 classes, the model has 10; new_head=True draws the classifier anew",
    "names of no one": "its names are those of no known source; they begin with 'a.b'",
}

CHILD = """
import json, sys, time
from pathlib import Path
from resnet_flax import resnet20
from weights_flax import load_weights
model = resnet20(width=4)
found = {}
for path in sorted(Path("files").iterdir()):
    start = time.perf_counter()
    try:
        load_weights(model, path)
        said = None
    except ValueError as error:
        said = str(error)
    found[path.name] = (said, time.perf_counter() - start)
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps([found, int(peak) / 1024, sorted(path.name for path in Path().iterdir())]))
"""


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    """Runs one process on all files; returns its messages and times, its peak memory in MB, and the files it wrote."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "files").mkdir()
    numbers = {f"{number:03}": name for number, name in enumerate(FILES)}
    for number, name in numbers.items():
        (folder / "files" / number).write_bytes(FILES[name])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD], cwd=folder, capture_output=True, text=True, check=True
    )
    found, peak, written = json.loads(done.stdout)
    return {numbers[number]: value for number, value in found.items()}, peak, written


def test_there_are_forty_and_more():
    assert len(FILES) > 100
    assert set(SAID) <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_clear_line_within_seconds(met, name):
    said, seconds = met[0][name]
    assert said is not None
    assert said.startswith("weights 'files/")
    assert "\n" not in said
    assert len(said) < 1200
    assert SAID.get(name, "") in said
    assert seconds < 10


def test_little_memory_is_taken(met):
    assert met[1] < 400  # JAX needs 220, and each bomb would add 256


def test_nothing_ran_and_nothing_was_written(met):
    assert met[2] == ["files"]


def test_the_orders_are_real(tmp_path, monkeypatch):
    """Python's own unpickler runs the code in these files, so the test above could fail."""
    monkeypatch.chdir(tmp_path)
    for name, data in PICKLES.items():
        if name.startswith("calls") and name != "calls a string":
            Path(MARKER).unlink(missing_ok=True)
            started = pickle.loads(data)
            getattr(started, "wait", getattr(started, "close", lambda: None))()
            assert Path(MARKER).exists(), name


def check_truncated(data, path):
    for size in range(0, len(data), 1024):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError) as error:
            load_weights(MODEL, path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".npz", ".msgpack", ".h5"])
def test_truncated_at_every_kilobyte(tmp_path, ending):
    whole = tmp_path / f"whole{ending}"
    if ending == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(whole, "w") as file:
            for name, value in RIGHT.items():
                file[name.replace(".", "/")] = value
    else:
        save_weights(MODEL, drawn(MODEL), whole)
    check_truncated(whole.read_bytes(), tmp_path / f"cut{ending}")


@pytest.mark.slow
def test_a_legacy_file_truncated_at_every_kilobyte(tmp_path):
    whole = Path(__file__).parents[2] / "golden" / "cifar10_resnet20_akamaster.th"
    check_truncated(whole.read_bytes(), tmp_path / "cut.th")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_types_load_right(tmp_path, dtype):
    """Values are rounded to the file's type, and returned in the model's."""
    (tmp_path / "file").write_bytes(save({name: value.astype(dtype) for name, value in RIGHT.items()}))
    loaded = to_torch(MODEL, load_weights(MODEL, tmp_path / "file"))
    for name, value in RIGHT.items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], value.astype(dtype).astype(np.float32))


def test_what_is_kept_beside_weights_is_passed_over(tmp_path):
    """Counters, wrappers and prefixes of other tools are ignored."""
    counters = {f"{name[:-12]}num_batches_tracked": np.array(7) for name in RIGHT if name.endswith("running_mean")}
    (tmp_path / "file").write_bytes(save({f"module.{name}": value for name, value in {**RIGHT, **counters}.items()}))
    assert to_torch(MODEL, load_weights(MODEL, tmp_path / "file")).keys() == RIGHT.keys()


def test_data_kept_in_another_file_is_refused(tmp_path):
    """HDF5 can refer to other files, whose bytes would be read as weights."""
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.create_dataset(
            "conv1_conv/conv1_conv/kernel:0", (16,), "<f4", external=[(str(tmp_path / "secret"), 0, 64)]
        )
    with pytest.raises(ValueError, match="is kept in another file"):
        load_weights(MODEL, tmp_path / "file.h5")


def test_folders_and_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="the folder has no weights: it is no run, and no checkpoint of Orbax"):
        load_weights(MODEL, tmp_path)
    with pytest.raises(ValueError, match="there is no such file"):
        load_weights(MODEL, tmp_path / "absent")
