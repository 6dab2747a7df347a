"""Files of Keras 3, laid out as Keras 3.15 writes them; the logits they stand for are stored, see make_keras.py."""

import json
import zipfile
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from weights_flax import load_model, load_weights
from weights_flax.formats.open import open_weights

h5py = pytest.importorskip("h5py")
KINDS = {"kernel": "conv2d", "gamma": "batch_normalization"}


def layers_of(name):
    """The layers of a network of Keras applications: names to arrays, in Keras' order."""
    layers = {}
    for full, shape in json.loads((references.GOLDEN / f"keras_{name}.json").read_text())["manifest"]:
        layer, _, leaf = full.rpartition("/")[0].partition("/")[0], None, full.rpartition("/")[2]
        layers.setdefault(layer, {})[leaf] = references.flax_tensor(full, tuple(shape))
    return layers


def write(path, layers, *, below="", named=True, more=()):
    """Writes `.weights.h5`: arrays by number, in groups called after the layers' classes, names beside them."""
    seen = Counter()
    with h5py.File(path, "w") as file:
        for layer, arrays in layers.items():
            first, values = next(iter(arrays.items()))
            kind = "dense" if first == "kernel" and values.ndim == 2 else KINDS.get(first, "normalization")
            number = seen[kind]
            seen[kind] += 1
            group = file.create_group(f"{below}layers/{kind}{f'_{number}' if number else ''}/vars")
            if named:
                group.attrs["name"] = layer
            for index, array in enumerate(arrays.values()):
                group[str(index)] = array
        file.create_group(f"{below}layers/activation/vars").attrs["name"] = "conv1_relu"
        file.create_group("vars").attrs["name"] = "network"
        for place, array in more:
            file[place] = array
    return path


def archive(path, layers, **options):
    """Writes `.keras`: the same file between others, without compression."""
    inner = write(path.with_suffix(".inner"), layers, **options)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        file.writestr("config.json", json.dumps({"module": "keras", "class_name": "Functional"}))
        file.write(inner, "model.weights.h5")
    return path


OPTIMIZER = [(f"optimizer/vars/{index}", np.zeros(3, np.float32)) for index in range(3)]
SEEDS = [("layers/dropout/seed_generator/vars/0", np.zeros(2, np.uint32))]
FORMS = {
    ".weights.h5": (write, {}),
    ".keras": (archive, {}),
    "with an optimizer": (archive, {"more": OPTIMIZER}),
    "a part of another model": (write, {"below": "layers/functional/"}),
    "with dropout": (write, {"more": SEEDS}),
}


@pytest.fixture(scope="module")
def densenet():
    return layers_of("DenseNet121")


@pytest.mark.parametrize("form", FORMS)
def test_files_of_keras_3_are_read(form, densenet, x64, tmp_path):
    make, options = FORMS[form]
    path = make(tmp_path / "file", densenet, **options)
    model, variables, _ = load_model(path, param_dtype=jnp.float64)
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3))
    with np.load(references.GOLDEN / "keras.npz") as stored:
        wanted = stored["DenseNet121"]
    logits = jax.jit(model.apply)(variables, images)
    assert np.abs(logits - wanted).max() < 1e-6 * np.abs(wanted).max()


def test_resnets_of_keras_3_are_read(x64, tmp_path):
    """Arrays with biases, which are numbered behind their kernels."""
    path = archive(tmp_path / "file", layers_of("ResNet50"))
    assert open_weights(path).format == "archive of Keras"
    model, variables, _ = load_model(path, param_dtype=jnp.float64)
    assert model.bottleneck_stride == "v1"
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3))
    with np.load(references.GOLDEN / "keras.npz") as stored:
        wanted = stored["ResNet50"]
    assert np.abs(jax.jit(model.apply)(variables, images) - wanted).max() < 1e-6 * np.abs(wanted).max()


def few(names=("conv1_conv", "bn")):
    kernel = {"kernel": np.ones((3, 3, 3, 4), np.float32)}
    return {name: kernel if name.endswith("conv") else {"gamma": np.ones(4, np.float32)} for name in names}


def repeated(path):
    with h5py.File(path, "w") as file:
        for number in range(2):
            file[f"layers/conv2d_{number}/vars/0"] = np.ones((1, 1, 2, 2))
            file[f"layers/conv2d_{number}/vars"].attrs["name"] = "conv"
    return path


def cut(path):
    whole = archive(path, few()).read_bytes()
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("model.weights.h5").header_offset + 60
    path.write_bytes(whole[:start] + whole[start + 1000 :])
    return path


def compressed(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.weights.h5", bytes(1000))
    return path


def empty(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model.weights.h5", b"")
    return path


def text(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model.weights.h5", b"hello" * 100)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: write(path, few(), named=False), "its layers have no names, as in files of early versions of"),
        (lambda path: archive(path, few(), named=False), "its layers have no names, as in files of early versions of"),
        (repeated, "it has two layers of the name 'conv'"),
        (compressed, "its model.weights.h5 is compressed or encrypted, which Keras does not do"),
        (cut, "cannot be read: "),
        (empty, "cannot be read: "),
        (text, "cannot be read: "),
        (lambda path: write(path, few(("encoder_conv",))), "its names are those of no known source"),
    ],
)
def test_other_files_are_refused_in_one_line(make, message, tmp_path):
    path = make(tmp_path / "file")
    with pytest.raises(ValueError, match=r"^weights ") as error:
        load_weights(None, path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
