"""Networks of known blocks at any depth, built from a file; and what is said of one that cannot be built."""

import time

import numpy as np
import pytest
from drawn import check_same, drawn
from torch_files import save, tensors

from densenet_flax import DenseNet
from resnet_flax import (
    VGG,
    BasicBlock,
    BottleneckBlock,
    PreActBasicBlock,
    PreActBottleneckBlock,
    ResNet,
    resnet18,
    resnet50,
)
from weights_flax import load_model, load_weights, save_weights, to_torch
from weights_flax.__main__ import main
from weights_flax.io.blocks import MOST_BLOCKS

NETWORKS = {
    "resnet26": ResNet((2, 2, 2, 2), BottleneckBlock, width=4, num_classes=5),
    "resnet10": ResNet((1, 1, 1, 1), BasicBlock, width=4, num_classes=5),
    "resnext101_64x4d": ResNet((3, 4, 3, 3), BottleneckBlock, width=8, groups=4, width_per_group=16, num_classes=5),
    "wide bottlenecks": ResNet((1, 2, 1), BottleneckBlock, width=4, width_per_group=128, num_classes=5),
    "resnet8 for 32 pixels": ResNet((1, 1, 1), BasicBlock, width=4, stem_type="cifar", shortcut="A", num_classes=5),
    "shortcuts C": ResNet((2, 2), BottleneckBlock, width=4, shortcut="C", num_classes=5),
    "a stem of its own width": ResNet((1, 1), BasicBlock, width=8, stem_width=4, stem_type="cifar", num_classes=5),
    "pre-activation": ResNet((2, 1, 1), PreActBasicBlock, width=4, num_classes=5),
    "pre-activation bottlenecks": ResNet((1, 1, 2), PreActBottleneckBlock, width=4, num_classes=5),
    "densenet264 of other sizes": DenseNet(block_sizes=(2, 3, 2), growth_rate=4, num_classes=5),
    "densenet without bottlenecks": DenseNet(
        block_sizes=(2, 2), growth_rate=4, bottleneck_width=None, compression=1.0, stem_type="cifar", num_classes=5
    ),
    "densenet of wider bottlenecks": DenseNet(
        block_sizes=(2, 2), growth_rate=4, bottleneck_width=2, compression=0.25, stem_width=12, num_classes=5
    ),
    "vgg of eight": VGG((1, 1, 1, 1, 1), batch_norm=True, width=2, num_classes=5),
    "vgg of three stages": VGG((2, 1, 3), width=2, num_classes=5),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_other_depths_of_known_blocks_are_built_from_the_file(name, tmp_path):
    model = NETWORKS[name]
    path = save_weights(model, drawn(model), tmp_path / "best.pth")
    loaded = load_model(path)
    assert to_torch(loaded.model, loaded.variables).keys() == to_torch(model, drawn(model)).keys()
    check_same(loaded.variables, drawn(model))
    images = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded.model.apply(loaded.variables, images), model.apply(drawn(model), images))


def test_they_are_converted_and_read_again(tmp_path, capsys):
    """The card of a network that no constructor makes keeps the options that shapes do not show."""
    model = NETWORKS["resnet26"].clone(bottleneck_stride="v1", padding="same")
    path = save_weights(model, drawn(model), tmp_path / "first.safetensors")
    assert main(["convert", str(path), "--out", str(tmp_path / "second.npz")]) == 0
    assert "ResNet(stage_sizes=(2, 2, 2, 2), block=BottleneckBlock, width=4, " in capsys.readouterr().out
    assert load_model(tmp_path / "second.npz").model == model
    with pytest.raises(ValueError, match="need a model built with padding='same'"):
        load_weights(NETWORKS["resnet26"], path)


def test_options_of_the_caller_are_taken(tmp_path):
    model = NETWORKS["resnet26"]
    path = save_weights(model, drawn(model), tmp_path / "best.pth")
    assert load_model(path, padding="same").model == model.clone(padding="same")


def conv(*shape):
    return np.ones(shape, np.float32)


def changed(model, extra=None, rename=None, drop=()):
    state = to_torch(model, drawn(model))
    state = {rename(name) if rename else name: value for name, value in state.items()}
    return {name: value for name, value in state.items() if not any(part in name for part in drop)} | (extra or {})


FIFTY, EIGHTEEN = resnet50(width=2, num_classes=3), resnet18(width=2, num_classes=3)
OTHERS = {
    "seresnet50": (
        changed(FIFTY, {"layer1.0.se.fc1.weight": conv(2, 8, 1, 1)}),
        r"nearest is resnet50, .* layer1\.0\.se\.fc1\.weight \(2, 8, 1, 1\), which it lacks: squeeze-and-excitation",
    ),
    "Cadene's SE": (changed(FIFTY, {"layer2.0.se_module.fc1.weight": conv(1, 16, 1, 1)}), "squeeze-and-excitation"),
    "ecaresnet": (changed(EIGHTEEN, {"layer1.0.eca.conv.weight": conv(1, 1, 3)}), "attention in its blocks"),
    "CBAM": (changed(EIGHTEEN, {"layer1.0.cbam.mlp.0.weight": conv(1, 2)}), "attention in its blocks"),
    "resnet50_gn": (
        changed(FIFTY, drop=["running_"]),
        r"bn1\.running_mean \(2,\), which the file lacks: norms without",
    ),
    "resnet50d's stem": (
        changed(
            FIFTY,
            {"conv1.3.weight": conv(1, 1, 3, 3)},
            lambda name: "conv1.0.weight" if name == "conv1.weight" else name,
        ),
        r"first difference is conv1\.0\.weight .*a deep stem of 3×3 convolutions",
    ),
    "resnet50d's shortcuts": (
        changed(
            FIFTY,
            rename=lambda name: name.replace("downsample.1.", "downsample.2.").replace(
                "downsample.0.", "downsample.1."
            ),
        ),
        "a pool before each shortcut's projection",
    ),
    "res2net50": (
        changed(FIFTY, {"layer1.0.convs.0.weight": conv(2, 2, 3, 3)}, drop=["layer1.0.conv2"]),
        "Res2Net's convolutions in a row",
    ),
    "ResNeSt": (changed(FIFTY, {"layer1.0.conv2.fc1.weight": conv(1, 2, 1, 1)}), "split or selective attention"),
    "antialiased": (changed(FIFTY, {"layer2.0.conv3.0.filt": conv(2, 1, 3, 3)}), "blur pools"),
    "IBN-Net": (changed(FIFTY, {"layer1.0.bn1.IN.weight": conv(1)}), "instance norm beside BatchNorm"),
    "biases": (changed(EIGHTEEN, {"layer1.0.conv1.bias": conv(2)}), "biases in its convolutions"),
    "weight norm": (changed(EIGHTEEN, {"layer1.0.conv1.weight_g": conv(2, 1, 1, 1)}), "parametrised or pruned weights"),
    "a fifth stage": (changed(EIGHTEEN, {"layer5.0.conv1.weight": conv(32, 16, 3, 3)}), r"layer5\.0\."),
    "densenet264d's stem": (
        changed(DenseNet(block_sizes=(6, 12, 24, 16), growth_rate=2), {"features.conv1.weight": conv(2, 2, 3, 3)}),
        r"nearest is densenet121, .*features\.conv1\.weight .*a deep stem",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_built_is_said_by_the_nearest_and_the_first_difference(name, tmp_path, capsys):
    state, said = OTHERS[name]
    path = save(tensors(state), tmp_path / "best.pth")
    with pytest.raises(ValueError, match=said) as error:
        load_model(path)
    assert str(error.value).startswith(f"weights {str(path)!r} ")
    assert "\n" not in str(error.value)
    assert main(["inspect", str(path)]) in (0, 2)
    capsys.readouterr()
    assert main(["convert", str(path), "--out", str(tmp_path / "out.pth")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.pth").exists()


def test_very_deep_ones_are_not_built_from_a_file_alone(tmp_path):
    """A file of names and nothing else could ask for any depth."""
    names = {f"layer1.{i}.conv1.weight": conv(1, 1, 1, 1) for i in range(MOST_BLOCKS + 1)}
    path = save(tensors(names | {"conv1.weight": conv(1, 3, 3, 3)}), tmp_path / "best.pth")
    with pytest.raises(ValueError, match="fit no architecture"):
        load_model(path)


@pytest.mark.parametrize("stages", [7, 40, 700])
def test_ones_that_leave_nothing_of_an_image_are_not_built_from_a_file_alone(stages, tmp_path):
    """Each stage halves the image: the least size of a VGG of forty stages would have twelve digits."""
    names = {f"features.{3 * i}.weight": conv(1, 3 if i == 0 else 1, 3, 3) for i in range(stages)}
    names |= {f"classifier.{i}.weight": conv(1, 1) for i in (0, 3, 6)}
    start = time.process_time()
    with pytest.raises(ValueError, match=r"fit no architecture|names of no known source"):
        load_model(save(tensors(names), tmp_path / "best.pth"))
    assert time.process_time() - start < 10
