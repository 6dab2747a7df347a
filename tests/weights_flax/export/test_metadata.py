"""What exported files say of themselves, and programs from pixels to probabilities."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from drawn import drawn

from densenet_flax import DenseNet
from resnet_flax import VGG, resnet20
from training_flax import predict
from weights_flax import ExportCard, export, load_model, read_export_card, save_weights
from weights_flax.__main__ import main
from weights_flax.export.metadata import card_path, from_strings, to_strings

MOMENTS = {"mean": [0.25, 0.5, 0.75], "std": [0.125, 0.25, 0.5]}
CARD = {
    "class_names": ["heron", "owl, barn", 'a "wren" 猫'],
    "normalisation": MOMENTS,
    "preprocessing": {
        "interpolation": "bicubic",
        "crop": 0.95,
        "crop_rule": "timm",
        "keep": False,
        "preparation": "digit",
    },
    "run": {"which": "averaged", "step": 45},
}
SHAPE = (16, 16, 3)
# Softmax lies between 0 and 1, and its error is at most half of the largest error of a logit, see test_export.ROUNDING.
ROUNDING = 64 * np.finfo(np.float32).eps


@pytest.fixture(scope="module")
def network():
    model = resnet20(width=4, num_classes=3)
    return model, drawn(model)


def expected(card, **changes):
    return replace(
        ExportCard(
            architecture=card.architecture,
            layout=card.layout,
            image_shape=SHAPE,
            mean=(0.25, 0.5, 0.75),
            std=(0.125, 0.25, 0.5),
            interpolation="bicubic",
            crop=0.95,
            crop_rule="timm",
            keep=False,
            preparation="digit",
            class_names=("heron", "owl, barn", 'a "wren" 猫'),
            origin="averaged weights after step 45",
        ),
        **changes,
    )


@pytest.mark.parametrize("from_pixels", [False, True])
@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_a_file_says_all_that_its_server_needs(format, from_pixels, network, tmp_path):
    path = tmp_path / "net"
    more = {"licence": "CC0-1.0"}
    export(*network, path, format=format, image_shape=SHAPE, card=CARD, from_pixels=from_pixels, metadata=more)
    card = read_export_card(path)
    changes = dict(output="probabilities", dtype="uint8", pixels="0..255") if from_pixels else {}
    assert card == expected(card, layout="NCHW" if format == "onnx" else "NHWC", **changes)
    assert card.architecture.startswith("ResNet(stage_sizes=(3, 3, 3), ")
    if format == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        entries = session.get_modelmeta().custom_metadata_map
        assert entries["licence"] == "CC0-1.0"
        assert from_strings(entries) == card
        (images,), (output,) = session.get_inputs(), session.get_outputs()
        assert (images.name, output.name) == (card.input, card.output)
        assert images.type == ("tensor(uint8)" if from_pixels else "tensor(float)")
        assert images.shape[1:] == [3, 16, 16]
    else:
        values = json.loads(card_path(path).read_text())
        assert values["licence"] == "CC0-1.0"
        program = jax.export.deserialize(path.read_bytes())
        assert program.in_avals[0].dtype == card.dtype
        assert program.in_avals[0].shape[1:] == SHAPE


def run(format, path, images):
    if format == "stablehlo":
        return np.asarray(jax.export.deserialize(path.read_bytes()).call(images))
    card = from_strings({entry.key: entry.value for entry in onnx.load(path).metadata_props})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([card.output], {card.input: images.transpose(0, 3, 1, 2)})[0]


NETWORKS = {
    "ResNet": (resnet20(width=4, num_classes=3), (16, 16, 3)),
    "grey": (resnet20(width=4, num_classes=3), (16, 16, 1)),
    "DenseNet": (DenseNet((2, 3), growth_rate=4, num_classes=3), (32, 40, 3)),
    "VGG": (VGG((1,) * 5, width=4, num_classes=3), (32, 32, 3)),
}


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pixels_become_our_own_probabilities_at_any_batch_size(name, format, tmp_path):
    model, image_shape = NETWORKS[name]
    channels = image_shape[2]
    variables = model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False)
    mean, std = (MOMENTS[each][:channels] for each in ("mean", "std"))
    card = {"normalisation": {"mean": mean, "std": std}}
    export(model, variables, tmp_path / "net", format=format, image_shape=image_shape, card=card, from_pixels=True)
    images = np.random.default_rng(0).integers(0, 256, (5, *image_shape), np.uint8)
    probabilities, classes = predict(model, variables, images, mean=mean, std=std, top=3)
    ours = np.zeros((5, 3), np.float32)
    np.put_along_axis(ours, classes, probabilities, 1)
    images_in = (jnp.asarray(images, jnp.float32) / 255 - jnp.asarray(mean)) / jnp.asarray(std)
    largest = np.abs(np.asarray(model.apply(variables, images_in, train=False))).max()
    for batch in (1, 5):
        found = run(format, tmp_path / "net", images[:batch])
        assert found.dtype == np.float32
        assert np.abs(found - ours[:batch]).max() <= ROUNDING * max(1, largest)
    assert np.ptp(ours, axis=0).max() > 1e-3  # the images differ


@pytest.mark.parametrize("opset", [9, 13, 22])
def test_each_opset_has_the_operations(opset, network, tmp_path):
    path = tmp_path / "net"
    export(*network, path, format="onnx", image_shape=SHAPE, card=CARD, from_pixels=True, opset=opset)
    onnx.checker.check_model(path, full_check=True)
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
    assert run("onnx", path, images).sum(1) == pytest.approx(1, abs=1e-6)


def test_what_is_unknown_is_left_out(network, tmp_path):
    export(*network, tmp_path / "net", format="onnx", image_shape=SHAPE)
    card = read_export_card(tmp_path / "net")
    assert (card.mean, card.class_names, card.crop, card.keep, card.origin) == (None,) * 5
    assert "class_names" not in to_strings(card)


WRONG = {
    "no moments": (dict(from_pixels=True, card={}), "from_pixels needs the mean of pixels"),
    "torch": (dict(from_pixels=True, card=CARD, format="torch"), "from_pixels is for formats 'onnx' and 'stablehlo'"),
    "names": (dict(card={"class_names": ["a"]}), "class_names must be 3, one for each class; given 1"),
    "mean": (dict(card={"normalisation": {"mean": [0.5] * 2, "std": [1] * 2}}), "mean must be 3 finite numbers"),
    "nan": (dict(card={"normalisation": {"mean": [float("nan")] * 3, "std": [1] * 3}}), "mean must be 3 finite"),
    "std": (dict(card={"normalisation": {"mean": [0.5] * 3, "std": [0, 1, 1]}}), "std must be positive"),
    "rule": (
        dict(card={"preprocessing": {"crop_rule": "mine"}}),
        "the card of the weights cannot be exported: crop_rule",
    ),
    "preparation": (
        dict(card={"preprocessing": {"preparation": "mine"}}),
        "the card .* cannot be exported: preparation",
    ),
    "crop": (dict(card={"preprocessing": {"crop": 2.0}}), "the card of the weights cannot be exported: crop must be"),
    "entry": (dict(metadata={"mean": "0.5"}), "metadata has the entry 'mean', which the card of an export tells"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_descriptions_are_refused_and_nothing_is_written(name, network, tmp_path):
    options, message = WRONG[name]
    for format in ("onnx", "stablehlo"):
        with pytest.raises(ValueError, match=f"^{message}") as caught:
            export(*network, tmp_path / "net", **{"format": format, "image_shape": SHAPE, **options})
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_card_of_another_program_or_with_other_values_is_refused(network, tmp_path):
    path = tmp_path / "net"
    export(*network, path, image_shape=SHAPE, card=CARD)
    program, text = path.read_bytes(), card_path(path).read_text()
    path.write_bytes(program + b"0")
    with pytest.raises(ValueError, match=r"^card of '.*net': it is not the card of '.*net'$"):
        read_export_card(path)
    path.write_bytes(program)
    card_path(path).write_text(text.replace("0.95", "0.875"))
    with pytest.raises(ValueError, match=r"its content is not what was written$"):
        read_export_card(path)
    card_path(path).unlink()
    with pytest.raises(ValueError, match=r"it is no ONNX file, and has no card beside it$"):
        read_export_card(path)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_export_card(tmp_path / "absent")


def test_no_file_of_others_is_replaced_by_a_card(network, tmp_path, capsys):
    (tmp_path / "net.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"net\.json' is where the export's card goes, and is none; name another file$"
    ):
        export(*network, tmp_path / "net", image_shape=SHAPE)
    assert [path.name for path in tmp_path.iterdir()] == ["net.json"]
    export(*network, tmp_path / "other", image_shape=SHAPE)
    export(*network, tmp_path / "other", image_shape=SHAPE, card=CARD)  # a card of an older export is
    assert read_export_card(tmp_path / "other").crop == 0.95
    save_weights(*network, tmp_path / "weights.json.npz")
    (tmp_path / "weights.json.npz").rename(tmp_path / "weights.json")
    command = ["export", "--weights", str(tmp_path / "weights.json"), "--format", "stablehlo"]
    assert main([*command, "--out", str(tmp_path / "weights")]) == 2
    assert "would replace a file that is read" in capsys.readouterr().err
    assert load_model(tmp_path / "weights.json").model == network[0]


def test_the_command_takes_the_card_of_the_weights(network, tmp_path, capsys):
    about = dict(class_names=["a", "b", "c"], mean=[0.5] * 3, std=[0.25] * 3, image_shape=SHAPE)
    save_weights(*network, tmp_path / "w.safetensors", **about, preprocessing={"crop": 0.9})
    for format in ("onnx", "stablehlo"):
        out = str(tmp_path / format)
        command = ["export", "--weights", str(tmp_path / "w.safetensors"), "--format", format, "--out", out]
        assert main([*command, "--from-pixels"]) == 0
        assert "images 16×16×3, from pixels to probabilities: " in capsys.readouterr().out
        card = read_export_card(out)
        assert (card.class_names, card.mean, card.crop, card.pixels) == (("a", "b", "c"), (0.5,) * 3, 0.9, "0..255")
    assert main([*command[:-1], str(tmp_path / "t.pt"), "--from-pixels", "--format", "torch"]) == 2
