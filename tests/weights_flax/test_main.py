"""The command line over files of weights."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import references
from drawn import check_same, drawn

from resnet_flax import resnet20
from weights_flax import load_model, load_weights, save_weights
from weights_flax.__main__ import main

AKAMASTER = str(references.GOLDEN / "cifar10_resnet20_akamaster.th")


def said(capsys, *arguments):
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_inspect_says_what_a_file_is(capsys):
    out = said(capsys, "inspect", AKAMASTER)
    assert "PyTorch, legacy format, 97 tensors, 271,098 values, float32" in out
    assert "names     akamaster's CIFAR ResNets" in out
    assert re.search(r"fits +resnet20\(num_classes=10\)\n +plain20\(num_classes=10\)\n", out)
    assert "module.linear.weight" in out
    assert "module.layer2.0.conv1.weight" not in out
    out = said(capsys, "inspect", AKAMASTER, "--tensors")
    assert re.search(r"module\.layer2\.0\.conv1\.weight +float32  \(32, 16, 3, 3\)", out)


def test_inspect_shows_the_card(capsys, tmp_path):
    model = resnet20(width=4, num_classes=2)
    save_weights(model, drawn(model), tmp_path / "w.npz", class_names=["cat", "dog"], mean=[0.5] * 3, std=[1] * 3)
    out = said(capsys, "inspect", tmp_path / "w.npz")
    assert "fits      resnet20(num_classes=2, width=4)" in out
    assert "class names cat, dog" in out
    assert "normalisation mean=[0.5, 0.5, 0.5], std=[1, 1, 1]" in out


def dangling(folder):
    (folder / "link.npz").symlink_to("absent/there.npz")
    return folder / "link.npz"


OUTS = {
    "in a folder that is not there": (lambda folder: folder / "absent" / "out.npz", "absent'; make it first"),
    "a link to nothing": (dangling, "absent'; make it first"),
    "a folder": (lambda folder: folder, "is a folder; name a file in it"),
    "a folder with an ending": (lambda folder: (folder / "a.npz").mkdir() or folder / "a.npz", "is a folder; name"),
    "an unknown ending": (lambda folder: folder / "out.bin", "ending of a file of weights '.bin'"),
    "no ending": (lambda folder: folder / "out", "ending of a file of weights ''"),
}


@pytest.mark.parametrize("name", OUTS)
def test_files_that_cannot_be_made_are_refused_before_one_is_read(name, capsys, tmp_path):
    make, message = OUTS[name]
    out = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    commands = [["convert", "no such file", "--out", out]]
    commands += [["export", "--weights", "no such file", "--format", "onnx", "--out", out]] * ("ending" not in name[2:])
    for command in commands:
        assert main(list(map(str, command))) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_inspect_tells_the_channels_of_images_unless_they_have_three(capsys, tmp_path):
    model = resnet20(width=2, num_classes=2)
    for channels, message in ((1, ", of images with 1 channel\n"), (4, ", of images with 4 channels\n"), (3, "2)\n")):
        variables = drawn(model, channels)
        save_weights(model, variables, tmp_path / "w.pt")
        assert f"resnet20(num_classes=2, width=2){message}".replace("2)2)", "2)") in said(
            capsys, "inspect", tmp_path / "w.pt"
        )


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pt", "msgpack"])
def test_convert_keeps_values_and_card(capsys, tmp_path, ending):
    assert "resnet20(num_classes=10), 271,098 values" in said(
        capsys, "convert", AKAMASTER, "--arch", "resnet20", "--out", tmp_path / f"w.{ending}"
    )
    check_same(load_weights(resnet20(), tmp_path / f"w.{ending}"), load_weights(resnet20(), AKAMASTER))


def test_convert_keeps_what_the_file_says_of_itself(capsys, tmp_path):
    model = resnet20(width=4, num_classes=2)
    about = dict(class_names=["a", "b"], mean=[0.5] * 3, std=[1.0] * 3, licence="MIT", image_shape=[32, 32, 3])
    save_weights(model, drawn(model), tmp_path / "first.safetensors", **about)
    said(capsys, "convert", tmp_path / "first.safetensors", "--out", tmp_path / "second.npz")
    first, second = (load_model(tmp_path / name) for name in ("first.safetensors", "second.npz"))
    assert first.card == second.card
    assert first.model == second.model == model


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_export(capsys, tmp_path, format):
    if format == "onnx":
        pytest.importorskip("onnx")
    out = said(capsys, "export", "--weights", AKAMASTER, "--format", format, "--out", tmp_path / "net")
    assert "resnet20(num_classes=10), images 32×32×3" in out
    if format == "stablehlo":
        logits = jax.export.deserialize((tmp_path / "net").read_bytes()).call(
            references.small_images().astype(np.float32)
        )
        with np.load(references.GOLDEN / "akamaster.npz") as stored:
            np.testing.assert_allclose(logits, stored["logits"], atol=1e-4, rtol=0)


def test_an_onnx_file_has_the_mean_and_std_of_the_options_or_of_the_file(capsys, tmp_path):
    onnx = pytest.importorskip("onnx")
    model, path = resnet20(width=4), tmp_path / "w.npz"
    save_weights(model, drawn(model), path, mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 3.0])

    def moments(*options):
        said(capsys, "export", "--weights", path, "--format", "onnx", "--out", tmp_path / "net", *options)
        metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "net").metadata_props}
        return json.loads(metadata["mean"]), json.loads(metadata["std"])

    assert moments() == ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    assert moments("--mean", "0.5,0.4,0.3", "--std", "0.2", "0.2", "0.2") == ([0.5, 0.4, 0.3], [0.2] * 3)
    assert moments("--mean", "0.5,0.4,0.3") == ([0.5, 0.4, 0.3], [1.0, 2.0, 3.0])


def test_export_of_an_untrained_network(capsys, tmp_path):
    said(capsys, "export", "--arch", "resnet20", "--format", "torch", "--out", tmp_path / "net.pt")
    assert load_model(tmp_path / "net.pt").model == resnet20()


WRONG = {
    "no such file": (["inspect", "absent"], "weights 'absent': there is no such file"),
    "no command": (["inspct", "absent"], "Unrecognized options: inspct"),
    "a mean without a deviation": (
        ["export", "--arch", "resnet20", "--out", "x", "--format", "onnx", "--mean", "0.5", "0.5", "0.5"],
        "give mean and std, or neither; given mean=(0.5, 0.5, 0.5) and std=None",
    ),
    "a mean of two channels": (
        ["export", "--arch", "resnet20", "--out", "x", "--format", "onnx", "--mean", "0.5,0.5", "--std", "1,1,1"],
        "mean must be 3 finite numbers, one for each channel; given (0.5, 0.5)",
    ),
    "a deviation of zero": (
        ["export", "--arch", "resnet20", "--out", "x", "--format", "onnx", "--mean", "0,0,0", "--std", "1,0,1"],
        "std must be 3 finite numbers, one for each channel, all of them over 0; given (1.0, 0.0, 1.0)",
    ),
    "a mean for PyTorch": (
        ["export", "--arch", "resnet20", "--out", "x", "--format", "torch", "--mean", "0,0,0", "--std", "1,1,1"],
        "mean and std are for formats 'stablehlo' and 'onnx'; given (0.0, 0.0, 0.0) for 'torch'",
    ),
    "another architecture": (
        ["convert", AKAMASTER, "--arch", "resnet32", "--out", "w.npz"],
        "are not those of resnet32",
    ),
    "an unknown architecture": (["convert", AKAMASTER, "--arch", "resnet21", "--out", "w.npz"], "did you mean"),
    "an unknown ending": (["convert", AKAMASTER, "--out", "w.onnx"], "unknown ending of a file of weights '.onnx'"),
    "an unknown format": (["export", "--arch", "resnet20", "--format", "onx", "--out", "w"], "did you mean 'onnx'?"),
    "nothing to export": (["export", "--format", "onnx", "--out", "w"], "name an architecture with --arch, or weights"),
    "two sources": (
        ["export", "--weights", AKAMASTER, "--run", "run", "--format", "torch", "--out", "w"],
        "give weights or run, not both",
    ),
    "no run": (["export", "--run", "run", "--format", "torch", "--out", "w"], "weights 'run': there is no such file"),
    "a folder that is not there": (["convert", AKAMASTER, "--out", "absent/w.npz"], "absent/w.npz"),
    "no image size": (
        ["export", "--arch", "resnet20", "--format", "torch", "--image-size", "-1", "--out", "w"],
        "height in image_shape must be a positive integer; given -1",
    ),
}


@pytest.mark.parametrize(
    ("command", "out"),
    [
        ("convert w.pth", "w.pth"),
        ("convert w.pth", "./link.pth"),
        ("convert .", "model.safetensors"),
        ("export --format torch --weights w.pth", "link.pth"),
        ("export --format torch --run .", "config.json"),
        ("export --format torch --run .", "model_ema.safetensors"),
    ],
)
def test_what_is_read_is_not_written_over(capsys, tmp_path, monkeypatch, command, out):
    """A file that is read, by any name, and those of a run whose folder is read."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(AKAMASTER, "w.pth")
    Path("link.pth").symlink_to("w.pth")
    assert main([*command.split(), "--out", out]) == 2
    line = f"weights_flax: error: out '{Path(out)}' would replace a file that is read; name another\n"
    assert capsys.readouterr().err == line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.pth", "w.pth"]
    assert Path("w.pth").read_bytes() == Path(AKAMASTER).read_bytes()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG[name]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("weights_flax: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_of_the_whole_and_as_a_program(tmp_path):
    done = subprocess.run([sys.executable, "-m", "weights_flax", "--help"], capture_output=True, text=True, check=True)
    for command in ("inspect", "convert", "export"):
        assert command in done.stdout
