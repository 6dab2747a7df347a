"""What checkpoints of PyTorch keep beside their tensors is read or passed over, and code is never run."""

import collections
import datetime
import decimal
import os
import pathlib
import pickle
import types
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque

import hostile
import numpy as np
import pytest
from drawn import check_same, drawn
from torch_files import save, tensors

from resnet_flax import resnet20
from weights_flax import load_model, load_weights, to_torch
from weights_flax.formats.open import open_weights

MODEL = resnet20(width=2, num_classes=3)
RIGHT = drawn(MODEL)
STATE = to_torch(MODEL, RIGHT)
MARKER = "something-ran"


def history():
    found = defaultdict(list)
    found["loss"] += [1.0, 0.5]
    found["of tuples"] += [(1, 2)]
    return found


BESIDE = {
    "an array of NumPy": np.arange(3.0),
    "an array in Fortran's order": np.asfortranarray(np.ones((3, 4), np.float32)),
    "an array of objects": np.array([None, "a"], object),
    "an array of texts": np.array(["a", "bc"]),
    "an array of times": np.array(["2020-01-01"], "datetime64[D]"),
    "a scalar of NumPy": np.float64(76.1),
    "a type of NumPy": np.dtype("float32"),
    "a class of NumPy": np.float32,
    "a default dict": history(),
    "a dict of lists by default": defaultdict(dict, a={"b": 1}),
    "a counter": Counter("aab"),
    "an ordered dict": OrderedDict(a=1),
    "a queue": deque([1, 2], maxlen=3),
    "a set": {1, 2},
    "a frozen set": frozenset("ab"),
    "paths": [pathlib.PurePosixPath("a/b"), pathlib.Path("c")],
    "a time": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "a duration": datetime.timedelta(hours=3),
    "a decimal number": decimal.Decimal("0.1"),
    "bytes": b"abc",
    "an array of bytes": bytearray(b"abc"),
    "a complex number": 1j,
    "a large number": 2**100,
    "a slice": slice(1, 3),
    "a class": dict,
    "a range": range(3),
    "options": Namespace(lr=0.1, out=pathlib.Path("runs"), betas=(0.9, 0.99)),
    "a simple object": types.SimpleNamespace(a=1),
    "keys that are tuples, numbers and nothing": {(1, 2): 3, 4: 5, None: 6, 1.5: 7, True: 8},
    "nothing": None,
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", BESIDE)
def test_what_is_beside_the_network_does_no_harm(name, protocol, tmp_path):
    for place, content in enumerate(
        (
            {"beside": BESIDE[name], "state_dict": tensors(STATE)},
            {"state_dict": tensors(STATE), "deep": [{"x": BESIDE[name]}]},
        )
    ):
        path = save(content, tmp_path / f"{place}.pth", protocol)
        check_same(load_weights(MODEL, path), RIGHT)


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_numpy_are_weights_too(protocol, tmp_path):
    """A state dict of arrays, such as {name: tensor.numpy()}."""
    state = {name: np.asfortranarray(value) if value.ndim == 4 else value for name, value in STATE.items()}
    check_same(load_model(save({"model": state}, tmp_path / "best.pth", protocol)).variables, RIGHT)
    big = {name: value.astype(">f4") for name, value in STATE.items()}
    check_same(load_model(save(big, tmp_path / "big.pth", protocol)).variables, RIGHT)


@pytest.mark.parametrize("protocol", [2, 4])
def test_large_arrays_of_numpy_are_read(protocol, tmp_path):
    """They stand in the pickle itself, in protocol 2 as texts of up to two bytes for each."""
    content = {"memory": np.full(5 * 2**20, 0xFF, np.uint8).repeat(4), "state_dict": STATE}
    path = save(content, tmp_path / "best.pth", protocol)
    assert path.stat().st_size > 20 * 2**20
    check_same(load_weights(MODEL, path), RIGHT)


def expanded(shape, strides, size):
    """A state dict whose classifier's bias is a view of a storage by strides of one's own."""
    data = hostile.tensor(size=size, shape=shape, strides=strides)
    return hostile.torch_zip(data, [np.full(size, 3, np.float32).tobytes()])


@pytest.mark.parametrize(
    ("shape", "strides", "size"), [((5,), (0,), 1), ((4, 3), (0, 1), 3), ((2, 3, 4), (0, 0, 1), 4)]
)
def test_expanded_tensors_are_read(shape, strides, size, tmp_path):
    (tmp_path / "x.pth").write_bytes(expanded(shape, strides, size))
    (tensor,) = open_weights(tmp_path / "x.pth").tensors.values()
    assert np.array_equal(tensor, np.full(shape, 3, np.float32))


@pytest.mark.parametrize(
    ("shape", "strides", "size", "said"),
    [
        ((2**14, 2**14), (0, 0), 1, "save its .contiguous()"),
        ((2**40, 2**6), (0, 1), 64, "save its .contiguous()"),
        ((4, 3), (1, 1), 6, "goes beyond its storage"),
        ((4, 3), (0, 2), 4, "goes beyond its storage"),
    ],
)
def test_views_that_repeat_too_much(shape, strides, size, said, tmp_path):
    (tmp_path / "x.pth").write_bytes(expanded(shape, strides, size))
    with pytest.raises(ValueError) as error:
        open_weights(tmp_path / "x.pth")
    assert said in str(error.value)


class Settings:
    """A class of the writer's own."""

    def __init__(self):
        self.lr = 0.1


CALLS = {
    "os.system": hostile.Calls(os.system, f"touch {MARKER}"),
    "eval": hostile.Calls(eval, f"open({MARKER!r}, 'w')"),
    "getattr": hostile.Calls(getattr, os, "system"),
    "a class of one's own": Settings(),
    "a reduced function of collections": hostile.Calls(collections.namedtuple, "a", "b"),
    "a path that opens": hostile.Calls(open, MARKER, "w"),
}


@pytest.mark.parametrize("name", CALLS)
def test_other_names_are_refused_wherever_they_stand(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "getattr":
        data = pickle.dumps({"state_dict": 1}, 2)[:-2] + b"cbuiltins\ngetattr\ncos\n_Environ\nX\x06\0\0\0system\x86Rs."
        (tmp_path / "best.pth").write_bytes(hostile.torch_zip(data))
    else:
        save({"beside": CALLS[name], "state_dict": tensors(STATE)}, tmp_path / "best.pth")
    with pytest.raises(ValueError, match=r"it names '.*', which is neither a tensor nor a container") as error:
        load_weights(MODEL, "best.pth")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pth"]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ((1, (10**9,), np.dtype("f4"), False, b"abcd"), "an array of shape (1000000000,) and type float32 has 4 bytes"),
        ((1, (2**40, 2**40), np.dtype("u1"), False, b"a"), "has 1 bytes"),
        ((1, "no shape", np.dtype("f4"), False, b"abcd"), None),
        ((1, (-1,), np.dtype("f4"), False, b"abcd"), None),
        ("no state", None),
    ],
)
def test_arrays_with_states_that_make_no_sense(state, said, tmp_path):
    class Array:
        def __reduce_ex__(self, protocol):
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state

    path = save({"beside": Array(), "state_dict": tensors(STATE)}, tmp_path / "best.pth")
    if said is None:
        check_same(load_weights(MODEL, path), RIGHT)
    else:
        with pytest.raises(ValueError) as error:
            load_weights(MODEL, path)
        assert said in str(error.value)
