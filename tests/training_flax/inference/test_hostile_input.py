"""The command line of predictions and weights_flax' inspect, with files whose names and texts are hostile."""

import io
import json
import os
import sys

import numpy as np
import pytest
from drawn import drawn
from PIL import Image
from safetensors.numpy import save_file

from resnet_flax import resnet20, to_torch
from training_flax.files.listing import LONGEST_LINE
from training_flax.inference.command import main
from weights_flax import __main__ as weights_command

NINE_BLOCKS = True
MODEL = resnet20(width=4)
CARD = {
    "arch": "resnet20",
    "options": {"width": 4},
    "num_classes": 10,
    "class_names": [
        "\x1b[31mred\x1b[0m",
        "a\nb",
        "c\rd",
        "\x9b2J",
        "\u202egpj",
        "\x07",
        "\x7f",
        "$\\frac{1}{0$",
        "x" * 9999,
        "",
    ],
    "normalisation": {"mean": [0.5] * 3, "std": [0.2] * 3},
    "licence": "\x1b[2J\x1b]0;title\x07",
    "source": "a\nfits      resnet1202",
    "\x1b[2Jkey\n": "value",
    "image_shape": [32, 32, 3],
}
SHOWN = {*"\n", *map(chr, range(32, 127)), *"×…–"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    save_file(to_torch(MODEL, drawn(MODEL)), root / "a.safetensors", {"model": json.dumps(CARD)})
    (root / "images").mkdir()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    for name in ("a.png", "\x1b[31mred\nline.png", "b\u202egpj.png", os.fsdecode(b"c\xff.png")):
        image.save(root / "images" / "plain.png")
        (root / "images" / "plain.png").rename(root / "images" / name)
    os.mkfifo(root / "images" / "x.jpg")
    (root / "images" / "y.png").symlink_to("/dev/zero")
    return root


def run(folder, *arguments):
    return main([*map(str, arguments), "--weights", str(folder / "a.safetensors")])


def test_names_reach_the_terminal_as_escapes(folder, capsys):
    assert run(folder, folder / "images", "--top", 10, "--picture", folder / "x.png") == 1
    shown = capsys.readouterr()
    assert set(shown.out) | set(shown.err) <= SHOWN
    rows = shown.out.splitlines()
    assert len(rows) == 1 + 4 * 10
    for name in (r"\x1b[31mred\nline.png", r"b\u202egpj.png", r"c\xff.png"):
        assert sum(name in row for row in rows) == 1
    assert any(r"\x1b[31mred\x1b[0m" in row for row in rows)
    assert "x.jpg': it is a pipe, not a regular file; skipped" in shown.err
    assert "y.png': it is a device, not a regular file; skipped" in shown.err
    assert (folder / "x.png").exists()


def test_a_table_in_a_file_has_the_same_escapes(folder):
    assert run(folder, folder / "images" / "a.png", "--out", folder / "table") == 0
    assert set((folder / "table").read_text()) <= SHOWN


def test_json_has_its_own_escapes(folder, capsys):
    assert run(folder, folder / "images", "--top", 10, "--json") == 1
    shown = capsys.readouterr()
    assert set(shown.out) <= SHOWN
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert {entry["class"] for entry in lines[0]["classes"]} == set(CARD["class_names"])
    assert sorted(line["image"] for line in lines) == sorted(
        str(path) for path in (folder / "images").iterdir() if path.name not in ("x.jpg", "y.png")
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "it is a pipe, not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a regular file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: (path.touch(), os.truncate(path, 2**36)), "it has more than 16,777,216 bytes"),
        (lambda path: path.write_bytes(b"\xff" * 10), "are no text"),
        (lambda path: path.write_text("a\n" * 11), "must be 10 lines, one for each; given 11"),
    ],
)
def test_names_of_classes_come_from_a_text(folder, capsys, tmp_path, make, said):
    make(tmp_path / "classes")
    assert run(folder, folder / "images" / "a.png", "--classes", tmp_path / "classes") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("predict: error: classes ")
    assert said in error


def test_a_list_on_stdin_has_lines_that_end(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a" * LONGEST_LINE))
    assert run(folder, "-") == 2
    assert "a path on stdin has 65,536 characters or more" in capsys.readouterr().err


@pytest.mark.parametrize("size", [5000, 10**6, 10**9])
def test_a_size_beyond_memory_is_refused(folder, capsys, size):
    assert run(folder, folder / "images" / "a.png", "--image-size", size) == 2
    assert f"image_size must have at most 16,777,216 pixels; given {size}×{size}" in capsys.readouterr().err
    arguments = ["export", "--weights", str(folder / "a.safetensors"), "--format", "torch", "--image-size", str(size)]
    assert weights_command.main([*arguments, "--out", str(folder / "x.pt")]) == 2
    assert f"image_shape must have at most 16,777,216 pixels; given {size}×{size}" in capsys.readouterr().err


def test_inspect_shows_names_and_texts_as_escapes(folder, capsys):
    tensors = {**to_torch(MODEL, drawn(MODEL)), "\x1b[32mgreen\x1b]0;title\x07": np.zeros(3, np.float32)}
    many = {f"entry {number}\n": number for number in range(1000)}
    save_file(tensors, folder / "b.safetensors", {"model": json.dumps(CARD | many)})
    assert weights_command.main(["inspect", str(folder / "b.safetensors"), "--tensors"]) == 0
    shown = capsys.readouterr()
    assert set(shown.out) | set(shown.err) <= SHOWN
    lines = shown.out.splitlines()
    assert r"licence   \x1b[2J\x1b]0;title\x07" in lines
    assert r"source    a\nfits      resnet1202" in lines
    assert r"\x1b[2Jkey\n  value" in lines
    assert any(line.startswith(r"  \x1b[32mgreen\x1b]0;title\x07  ") for line in lines)
    assert len(lines) < len(tensors) + 60
    assert max(map(len, lines)) < 300
