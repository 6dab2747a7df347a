"""Files as `torch.save` writes them, of any objects with tensors among them, made without PyTorch."""

import io
import pickle
import sys
import types
import zipfile
from contextlib import contextmanager

import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


class Tensor:
    """An array that is pickled as a tensor of PyTorch."""

    def __init__(self, array):
        self.array = np.asarray(array)


class _Storage:
    def __init__(self, key, array, kind):
        self.key, self.array, self.kind = key, array, kind


def _rebuild_tensor_v2(*arguments):
    raise AssertionError("only its name is pickled")


@contextmanager
def _named_torch():
    """Puts modules of PyTorch's names in place while objects are pickled by these names."""
    names = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    before = {name: sys.modules.get(name) for name in names}
    for kind in STORAGES.values():
        setattr(names["torch"], kind, type(kind, (), {"__module__": "torch"}))
    _rebuild_tensor_v2.__module__ = "torch._utils"
    names["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2
    sys.modules.update(names)
    try:
        yield names["torch"]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _Pickler(pickle.Pickler):
    def __init__(self, file, protocol, torch):
        super().__init__(file, protocol)
        self.torch, self.storages = torch, []

    def reducer_override(self, value):
        if not isinstance(value, Tensor):
            return NotImplemented
        array = np.ascontiguousarray(value.array)
        storage = _Storage(str(len(self.storages)), array, getattr(self.torch, STORAGES[array.dtype.name]))
        self.storages.append(array)
        strides = tuple(step // array.itemsize for step in array.strides)
        return _rebuild_tensor_v2, (storage, 0, array.shape, strides, False, {})

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return "storage", value.kind, value.key, "cpu", value.array.size
        return None


def tensors(state):
    """A state dict of arrays as one of tensors."""
    return {name: Tensor(value) for name, value in state.items()}


def save(content, path, protocol=2):
    """Writes any object with `Tensor`s in it as `torch.save` does."""
    data = io.BytesIO()
    with _named_torch() as torch:
        pickler = _Pickler(data, protocol, torch)
        pickler.dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data.getvalue())
        archive.writestr("archive/byteorder", b"little")
        for number, array in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{number}", array.tobytes())
        archive.writestr("archive/version", b"3\n")
    return path
