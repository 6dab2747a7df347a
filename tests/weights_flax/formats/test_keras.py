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
from weights_flax.__main__ import main
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


def archive(path, layers, config=None, **options):
    """Writes `.keras`: the same file between others, without compression."""
    inner = write(path.with_suffix(".inner"), layers, **options)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        file.writestr("config.json", json.dumps(config or {"module": "keras", "class_name": "Functional"}))
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


@pytest.mark.slow
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


def whole(path, layers, config=None):
    """Writes `.h5` of a whole model, as Keras 2 does."""
    with h5py.File(path, "w") as file:
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
        for layer, arrays in layers.items():
            for leaf, array in arrays.items():
                file[f"model_weights/{layer}/{layer}/{leaf}:0"] = array
    return path


def model_of(*layers, within=False):
    """A configuration of layers (class, name, options), as Keras writes it; `within` another model."""
    listed = [{"class_name": kind, "config": {"name": name, **options}} for kind, name, options in layers]
    model = {"module": "keras", "class_name": "Functional", "config": {"name": "net", "layers": listed}}
    return {**model, "config": {"name": "outer", "layers": [model]}} if within else model


@pytest.mark.parametrize(("make", "within"), [(archive, True), (whole, False)])
def test_epsilons_are_those_of_the_file(make, within, densenet, tmp_path):
    norms = [name for name, arrays in densenet.items() if "moving_variance" in arrays]
    config = model_of(*(("BatchNormalization", name, {"epsilon": 1e-3}) for name in norms[1:]), within=within)
    plain = load_model(make(tmp_path / "plain", densenet)).variables["batch_stats"]
    stats = load_model(make(tmp_path / "file", densenet, config)).variables["batch_stats"]
    added = jax.tree.leaves(jax.tree.map(lambda a, b: np.ptp(a - b) < 1e-5 and float((a - b).mean()), stats, plain))
    assert sorted({round(value, 6) for value in added}) == pytest.approx([0, 1e-3 - 1.001e-5], abs=1e-6)
    assert sum(value > 5e-4 for value in added) == len(norms) - 1


OTHERS = {
    "an activation": ("Activation", "conv1_relu", {"activation": "gelu"}, "has the activation 'gelu', not 'relu'"),
    "an activation of one's own": (
        "Activation",
        "conv2_block1_0_relu",
        {"activation": {"class_name": "Mine", "config": {}}},
        "has the activation 'Mine', not 'relu'",
    ),
    "a layer of another class": ("LeakyReLU", "relu", {"negative_slope": 0.1}, "'relu' is a LeakyReLU"),
    "a bounded ReLU": ("ReLU", "relu", {"max_value": 6.0}, "is a ReLU with a bound"),
    "an activation in a convolution": ("Conv2D", "conv2_block1_1_conv", {"activation": "relu"}, "not 'linear'"),
    "a pool": ("MaxPooling2D", "pool2_pool", {}, "'pool2_pool' is a MaxPooling2D"),
    "dilation": ("Conv2D", "conv4_block1_2_conv", {"kernel_size": [3, 3], "dilation_rate": [2, 2]}, "dilation_rate"),
    "a stride": (
        "Conv2D",
        "conv4_block1_2_conv",
        {"kernel_size": [3, 3], "strides": [2, 2], "padding": "same"},
        "has strides=[2, 2] and padding='same'",
    ),
    "the first convolution's padding": (
        "Conv2D",
        "conv1_conv",
        {"kernel_size": [7, 7], "strides": [2, 2], "padding": "same"},
        "'conv1_conv' has strides",
    ),
}
FIRST_AND_LAST = ("conv1_conv", "conv2_block1_0_bn", "pool2_bn", "bn", "predictions")
AS_HERE = [
    ("Conv2D", "conv1_conv", {"kernel_size": [7, 7], "strides": [2, 2], "padding": "valid", "activation": "linear"}),
    ("Conv2D", "conv2_block1_2_conv", {"kernel_size": [3, 3], "strides": [1, 1], "padding": "same"}),
    ("Activation", "relu", {"activation": "relu"}),
    ("ReLU", "conv1_relu", {"max_value": None, "negative_slope": 0.0}),
    ("Dense", "mine", {"activation": "softmax"}),
    ("Dense", "another", {"activation": "gelu"}),
]


@pytest.mark.parametrize("name", OTHERS)
def test_layers_that_compute_something_else_are_refused(name, densenet, tmp_path, capsys):
    *layer, said = OTHERS[name]
    config = model_of(*(each for each in AS_HERE if each[1] != layer[1]), layer)
    make = archive if len(name) % 2 else whole
    path = make(tmp_path / "file", {key: densenet[key] for key in FIRST_AND_LAST}, config)
    with pytest.raises(ValueError, match="not those of a network that is built here") as error:
        load_model(path)
    assert said in str(error.value)
    assert "the model's configuration in it" in str(error.value)
    assert "\n" not in str(error.value)
    if name == "a pool":
        assert main(["inspect", str(path)]) == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "config", [model_of(*AS_HERE), {"config": [1, "a", {"config": 3}]}, {"config": {"layers": [None]}}, {"a": 10**9}]
)
def test_configurations_that_say_nothing_else(config, densenet, tmp_path):
    make = archive if "a" in config else whole
    assert load_model(make(tmp_path / "file", densenet, config)).notes == ()


@pytest.mark.slow
@pytest.mark.parametrize(("make", "name"), [(write, "dense"), (archive, "my_dense"), (whole, "model_head")])
def test_a_lone_dense_layer_is_the_classifier(make, name, densenet, tmp_path):
    """Of transfer learning, in a name of its own."""
    head = {"kernel": np.ones((1024, 4), np.float32), "bias": np.arange(4, dtype=np.float32)}
    layers = {key: value for key, value in densenet.items() if key != "predictions"}
    loaded = load_model(make(tmp_path / "file", {name: head, **layers}))
    assert loaded.model.num_classes == 4
    assert np.array_equal(loaded.variables["params"]["classifier"]["bias"], head["bias"])
    narrow = {"kernel": np.ones((5, 4), np.float32), "bias": head["bias"]}
    for others in ({name: narrow}, {name: head, "second": head}):
        with pytest.raises(ValueError, match=f"but for the classifier, whose name is another: .*{name}"):
            load_model(make(tmp_path / "other", {**layers, **others}))


def test_a_dense_layer_behind_a_network_in_another(densenet, tmp_path):
    """Keras 2 and Keras 3's `.h5` put the inner network's name before its layers."""
    head = {"kernel": np.ones((1024, 4), np.float32), "bias": np.arange(4, dtype=np.float32)}
    with h5py.File(tmp_path / "file", "w") as file:
        for layer, arrays in densenet.items():
            if layer != "predictions":
                for leaf, array in arrays.items():
                    file[f"model_weights/densenet121/{layer}/{leaf}:0"] = array
        for leaf, array in head.items():
            file[f"model_weights/dense/dense/{leaf}:0"] = array
    assert load_model(tmp_path / "file").model.num_classes == 4


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
