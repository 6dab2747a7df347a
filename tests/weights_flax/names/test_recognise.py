"""Weights under other projects' names: the same logits as theirs, from stored arrays."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from drawn import drawn
from flax import serialization
from flax.traverse_util import unflatten_dict

from densenet_flax import densenet121
from layers_flax import count_parameters
from resnet_flax import resnet18, resnet20, resnet50, resnet56, resnet110, vgg11
from weights_flax import build_model, load_model, load_weights, to_torch
from weights_flax.formats.tensors import from_memory
from weights_flax.io.inspect import fitting
from weights_flax.names.recognise import recognise

AKAMASTER = references.GOLDEN / "cifar10_resnet20_akamaster.th"


def error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def test_akamasters_resnet20_loads_as_it_is():
    """Logits equal PyTorch's, in float32: both round each of 20 layers."""
    model, variables, card = load_model(AKAMASTER)
    assert (model, card) == (resnet20(), {})
    assert count_parameters(model, (32, 32, 3)) == 269_722
    logits = jax.jit(model.apply)(variables, references.small_images().astype(np.float32))
    with np.load(references.GOLDEN / "akamaster.npz") as stored:
        np.testing.assert_allclose(logits, stored["logits"], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("constructor", "shortcut"), [(resnet56, "A"), (resnet110, "B")])
def test_others_of_its_family(constructor, shortcut):
    """The source is recognised by `linear`, and by `shortcut.0` in blocks with a projection."""
    model = constructor(shortcut=shortcut)
    theirs = {}
    for name, value in state_dict(model).items():
        name = name.replace("fc.", "linear.").replace(".downsample.", ".shortcut.")
        theirs[f"module.{name}"] = value
    check_equal(model, theirs, "akamaster's CIFAR ResNets")


@pytest.mark.parametrize("model", [resnet50(width=8), densenet121(growth_rate=4), vgg11(width=2)])
def test_torchvisions_names_are_timms_too(model):
    check_equal(model, state_dict(model), "torchvision's or timm's")


def test_the_old_spelling_of_densenets():
    model = densenet121(growth_rate=4)
    theirs = {}
    for name, value in state_dict(model).items():
        for number in "12":
            name = name.replace(f".norm{number}.", f".norm.{number}.").replace(f".conv{number}.", f".conv.{number}.")
        theirs[name] = value
    check_equal(model, theirs, "torchvision's DenseNet, old spelling")


def test_timms_vggs_have_convolutions_for_dense_layers():
    model = vgg11(width=2)
    theirs = {}
    for name, value in state_dict(model).items():
        if name == "classifier.0.weight":
            value = value.reshape(-1, 16, 7, 7)
        if name == "classifier.3.weight":
            value = value[..., None, None]
        for ours, new in (("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2")):
            name = name.replace(ours, new)
        theirs[name.replace("classifier.6", "head.fc")] = value
    check_equal(model, theirs, "timm's VGG")


def state_dict(model):
    return to_torch(model, drawn(model))


def check_equal(model, theirs, title):
    naming, tensors = recognise(from_memory(theirs))
    assert naming.title == title
    ours = to_torch(model, load_weights(model, theirs))
    right = state_dict(model)
    assert ours.keys() == right.keys()
    assert all(np.array_equal(ours[name], right[name]) for name in right)
    found = [(arch, options) for arch, options in fitting(naming, tensors) if not arch.startswith("plain")]
    assert len(found) == 1
    arch, options = found[0]
    assert build_model(arch, **options) == model


def keras_file(name, path):
    h5py = pytest.importorskip("h5py")
    manifest = json.loads((references.GOLDEN / f"keras_{name}.json").read_text())["manifest"]
    with h5py.File(path, "w") as file:
        for full, shape in manifest:
            file[f"{full}:0"] = references.flax_tensor(full, tuple(shape))
    return path


@pytest.mark.parametrize(
    ("name", "size", "arch", "bound"),
    [
        ("ResNet50", 64, "resnet50", 1e-6),
        ("DenseNet121", 64, "densenet121", 1e-6),
        pytest.param("VGG16", 224, "vgg16", 1e-10, marks=pytest.mark.slow),  # 138 million values
    ],
)
def test_keras_applications(x64, tmp_path, name, size, arch, bound):
    """Biases before a BatchNorm, strides on the first convolution, pixels flattened first.

    Keras' BatchNorm rounds to float32 even here, so that a hundred of them differ by 10 · 1.2e-7 or so.
    """
    model, variables, _ = load_model(keras_file(name, tmp_path / "file.h5"), arch, param_dtype=jnp.float64)
    assert getattr(model, "bottleneck_stride", "v1") == "v1"
    assert model.num_classes == 20
    images = np.random.default_rng(0).standard_normal((2, size, size, 3))
    with np.load(references.GOLDEN / "keras.npz") as stored:
        assert error(jax.jit(model.apply)(variables, images), stored[name]) < bound


def test_keras_has_an_epsilon_of_its_own(x64, tmp_path):
    path = keras_file("DenseNet121", tmp_path / "file.h5")
    variables = load_weights(densenet121(num_classes=20, param_dtype=jnp.float64), path)
    theirs = references.flax_tensor("bn/bn/moving_variance", (1024,))
    np.testing.assert_allclose(variables["batch_stats"]["norm5"]["var"] + 1e-5, theirs + 1.001e-5, rtol=1e-15)


def test_keras_resnets_need_their_own_strides(tmp_path):
    path = keras_file("ResNet50", tmp_path / "file.h5")
    with pytest.raises(ValueError, match="need a model built with bottleneck_stride='v1'"):
        load_weights(resnet50(num_classes=20), path)


def test_keras_resnets_of_2016_are_others(tmp_path):
    """Keras' ResNets v2 have no counterpart here: no BatchNorm in the stem, and strides at the end of stages."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "file.h5", "w") as file:
        for layer in ("conv1_conv/conv1_conv/kernel:0", "conv2_block1_preact_bn/conv2_block1_preact_bn/gamma:0"):
            file[layer] = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="its names are those of no known source"):
        load_weights(resnet50(), tmp_path / "file.h5")


@pytest.mark.slow
def test_a_keras_file_without_its_top_can_get_a_new_one(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = keras_file("ResNet50", tmp_path / "file.h5")
    with h5py.File(path, "a") as file:
        del file["predictions"]
    model = resnet50(num_classes=3, bottleneck_stride="v1")
    with pytest.raises(ValueError, match=r"missing: fc\.kernel|missing: fc\.bias, fc\.weight|missing: fc"):
        load_weights(model, path)
    assert load_weights(model, path, new_head=True)["params"]["fc"]["kernel"].shape == (2048, 3)


def renamed(name, path, rename):
    """A file of Keras with other names, and zeros for the values."""
    h5py = pytest.importorskip("h5py")
    manifest = json.loads((references.GOLDEN / f"keras_{name}.json").read_text())["manifest"]
    with h5py.File(path, "w") as file:
        for full, shape in manifest:
            if new := rename(f"{full}:0"):
                file.create_dataset(new, shape, "<f4", fillvalue=0.5)
    return path


def without_top(name):
    return None if name.startswith("predictions/") else name


KERAS_HEADS = {
    "a dense layer of a user's own": lambda name: name.replace("predictions", "dense"),
    "in a model of a model": lambda name: (
        name.replace("predictions", "dense_1") if "predictions" in name else f"resnet50/{name}"
    ),
    "of a whole model": lambda name: "model_weights/" + name.replace("predictions", "my_classes"),
    "none": without_top,
    "a dropout between two": lambda name: without_top(name) or "dense_2/kernel:0",
}
LONE = ("a dense layer of a user's own", "in a model of a model", "of a whole model")  # taken as they are


@pytest.mark.slow
@pytest.mark.parametrize("head", KERAS_HEADS)
def test_keras_heads_of_other_names_give_way_to_a_new_one(tmp_path, head):
    """Names in a fine-tuned model of Keras are the user's own, and the application may be a layer of it."""
    seen = set()

    def rename(name):
        new = KERAS_HEADS[head](name)
        return None if new in seen else seen.add(new) or new

    path = renamed("ResNet50", tmp_path / "file.h5", rename)
    model = resnet50(num_classes=3, bottleneck_stride="v1")
    variables = load_weights(model, path, new_head=True)
    assert variables["params"]["fc"]["kernel"].shape == (2048, 3)
    assert (variables["params"]["conv1"]["kernel"] == 0.5).all()
    if head in LONE:
        assert load_model(path).model.num_classes == 20
    else:
        with pytest.raises(ValueError, match="but for the classifier"):
            load_model(path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "constructor"), [("ResNet18", resnet18), ("ResNet50", resnet50)])
def test_flaxs_imagenet_example(x64, tmp_path, name, constructor):
    """Blocks are counted through all stages, and padding is SAME."""
    manifest = json.loads((references.GOLDEN / "flax_example.json").read_text())[name]
    flat = {tuple(path.split("/")): references.flax_tensor(path, tuple(shape)) for path, shape in manifest}
    state = {"step": 7, "opt_state": {"0": {"trace": {}}}, **unflatten_dict(flat)}
    path = tmp_path / "checkpoint_7"
    path.write_bytes(serialization.msgpack_serialize(state))
    model, variables, _ = load_model(path, param_dtype=jnp.float64)
    assert model == constructor(num_classes=20, padding="same", param_dtype=jnp.float64)
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3))
    with np.load(references.GOLDEN / "flax_example.npz") as stored:
        assert error(jax.jit(model.apply)(variables, images), stored[name]) < 1e-10
    with pytest.raises(ValueError, match="Flax's ImageNet example, and need a model built with padding='same'"):
        load_weights(constructor(num_classes=20), path)
