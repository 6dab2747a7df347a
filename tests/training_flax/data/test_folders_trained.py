"""Folders with difficult names and files, trained by the command: what is told, drawn, written and predicted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_flax import restore, train_command
from training_flax.inference.command import main as predict
from weights_flax import read_card
from weights_flax.__main__ import main as weights

NAMES = (b"$1_$5", b"$10_$20", b"caf\xe9", "größe".encode())
SHOWN = ("$10_$20", "$1_$5", "caf\\xe9", "größe")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Makes a folder of four classes, with a test part without labels and files that are no images."""
    root = tmp_path_factory.mktemp("place")
    for part in ("train", "val"):
        for label, name in enumerate(NAMES):
            for index in range(2):
                path = root / "data" / part / os.fsdecode(name) / "deep" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng((label, index)).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(path)
    (root / "data" / "test").mkdir()
    Image.new("RGB", (8, 8)).save(root / "data" / "test" / os.fsdecode(b"\xe9.png"))
    (root / "data" / "train" / os.fsdecode(b"caf\xe9") / "features.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (root / "data" / "val" / "$1_$5" / "x.png").write_text("no image")
    return root


def train(place, *arguments):
    network = ["--arch", "resnet20", "--width", "4", "--batch-size", "4", "--steps", "2", "--mixup", "0.2"]
    return train_command.main([*network, "--data", f"folder:{place / 'data'}", "--out", str(place / "run"), *arguments])


@pytest.fixture(scope="module")
def trained(place):
    """Runs the command; returns its exit code."""
    return train(place)


@pytest.mark.slow
def test_the_run_is_whole_and_its_names_are_text(trained, place):
    assert trained == 0
    run = place / "run"
    for name in ("batch.png", "curves.png", "confusion.png"):
        with Image.open(run / name) as image:
            image.load()
    for path in (run / "config.json", run / "summary.json", run / "metrics.jsonl"):
        path.read_bytes().decode()
    assert tuple(json.loads((run / "config.json").read_text())["class_names"]) == SHOWN
    assert tuple(read_card(run / "model.safetensors")["class_names"]) == SHOWN
    assert restore(run)[0].num_classes == 4


def test_what_was_chosen_and_passed_over_is_told_again_by_an_evaluation(trained, place, capsys):
    capsys.readouterr()
    assert train(place, "--eval-only") == 0
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith(
        "'test' has 1 image without labels, 'val' is the test part; python -m training_flax.predict"
    )
    assert err[1].startswith("passed over, being no images: 2 files: ")
    assert "features.h5" in err[1]
    assert "x.png" in err[1]


def test_the_part_without_labels_is_predicted(trained, place, capsys):
    capsys.readouterr()
    picture, lines = place / "p.png", place / "p.jsonl"
    assert predict(["--run", str(place / "run"), "--picture", str(picture), str(place / "data" / "test")]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in SHOWN)
    assert predict(["--run", str(place / "run"), "--json", "--out", str(lines), str(place / "data" / "test")]) == 0
    assert {entry["class"] for entry in json.loads(lines.read_text())["classes"]} == set(SHOWN)
    for out in ("names.npz", "names.msgpack", "names.safetensors"):
        assert weights(["convert", str(place / "run"), "--out", str(place / out)]) == 0
        assert tuple(read_card(place / out)["class_names"]) == SHOWN


def test_strict_refuses_before_anything_is_written(place, tmp_path, capsys):
    assert train(place, "--strict", "--out", str(tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert err.startswith("train.py: error: ")
    assert "x.png': not an image" in err or "features.h5' is no image" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_parts_are_taken_by_name(place, tmp_path, capsys):
    assert train(place, "--train-split", "val", "--test-split", "train", "--out", str(tmp_path / "run")) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["train_split"], config["test_split"]) == ("val", "train")
    assert train(place, "--train-split", "vel", "--out", str(tmp_path / "other")) == 2
    assert "/vel': No such file or directory" in capsys.readouterr().err
    assert not Path(tmp_path / "other").exists()
