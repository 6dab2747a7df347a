"""Runs in folders with any name: each command takes them, and its lines and pictures show the name."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common_flax.terminal import visible
from training_flax import TrainConfig, fit, plan, restore
from training_flax.inference.command import main as predict
from training_flax.plots.curves import draw_confusion, draw_curves
from training_flax.plots.grids import draw_batch, draw_predictions
from training_flax.run import comparison
from training_flax.train_command import main as train
from weights_flax import load_model
from weights_flax.__main__ import main as weights

NINE_BLOCKS = True
NAMES = [
    *(
        "with space",
        " ",
        "trailing ",
        "new\nline",
        "tab\t",
        "\x1b[31mred",
        "\u202egnp",
        "100%",
        "%s%d{0}",
        "-dash",
        "--",
    ),
    *("$HOME", r"$\frac$", "_hidden", "~", "~nobody", "*", "?[a]", "#a", "a:b", "hf:", "hf:owner", "quote'\"", "a\\b"),
    *("ünï-日本-🦊", "e\u0301", "x" * 255, "a" * 200 + "/" + "b" * 200, "run.safetensors", "config.json"),
]
CONFIG = TrainConfig("resnet20", width=4, data="fake:8x8x3:4:64", batch_size=16, steps=4, ema=0.5, tensorboard=True)
TRAIN = ["--arch", "resnet20", "--width", "4", "--data", "fake:8x8x3:4:64", "--batch-size", "16", "--steps", "4"]
TRAIN += ["--ema", "0.5"]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Trains a short run in a folder of a difficult name, and makes an image beside it."""
    folder = tmp_path_factory.mktemp("names")
    fit(replace(CONFIG, out=folder / "-a $\\frac$\n%s 日本"), quiet=True)
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    return folder


@pytest.fixture
def named(place, monkeypatch):
    """Makes the function that gives the run another name."""
    monkeypatch.chdir(place)

    def rename(name):
        (place / name).parent.mkdir(exist_ok=True)
        found = next(path.parent for path in place.rglob("summary.json"))
        found.rename(place / name)
        return name

    return rename


def printed(capsys):
    out, error = capsys.readouterr()
    assert "Traceback" not in error
    assert all(line.isprintable() for line in (out + error).splitlines())
    return out


QUICK = ("with space", "-dash", "ünï-日本-🦊")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow, id=ascii(n)) for n in NAMES]
)
def test_each_command_takes_any_name(name, named, capsys):
    shown = visible(named(name))
    assert train([*TRAIN, f"--out={name}"]) == 0
    assert printed(capsys) == f"{shown} is finished: 4 steps; its results are in summary.json\n"
    assert comparison.main(["--out", "picture.png", "--", name]) == 0
    assert f"\n{shown.split('/')[-1]} " in printed(capsys)
    assert predict([f"--run={name}", "x.png"]) == 0
    assert "x.png" in printed(capsys)
    file = f"./{name}" if name.startswith("-") else name
    assert weights(["inspect", file]) == 0
    assert "resnet20" in printed(capsys)
    assert weights(["convert", file, "--out", "out.npz"]) == 0
    printed(capsys)
    expected = restore(Path(name).absolute())[1]["params"]["fc"]["kernel"]
    for found in (restore(name)[1], load_model(name).variables, load_model(Path(name)).variables):
        np.testing.assert_array_equal(found["params"]["fc"]["kernel"], expected)


def test_a_name_that_is_no_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^out '\\udcff' must be UTF-8, as names of checkpoints are; name another"):
        plan(replace(CONFIG, out="\udcff", tensorboard=False))
    assert list(tmp_path.iterdir()) == []


TEXTS = [r"$\frac$", "$a", "a_$^$", "_a", "\udcff", "\x1b[2J", "日本", "%s"]


@pytest.mark.slow
def test_pictures_show_any_text(tmp_path):
    names, labels = TEXTS, np.arange(len(TEXTS))
    images, shares = np.zeros((len(TEXTS), 8, 8, 3), np.uint8), np.eye(len(TEXTS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for title in TEXTS:
            draw_curves(tmp_path / "curves.png", [], title)
        draw_confusion(tmp_path / "confusion.png", labels, labels, names, names[0])
        draw_batch(tmp_path / "batch.png", images, shares, names)
        classes = np.tile(labels, (len(labels), 1))
        draw_predictions(tmp_path / "p.png", images, names, shares, classes, names, format="png")
        runs = [comparison.Run(name, {}, [], {}) for name in TEXTS]
        comparison.draw_comparison(tmp_path / "compare.png", runs)
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("curves", "confusion", "batch", "p"))
