"""The command that predicts: its output, its messages and its errors."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_flax import resnet18
from training_flax import TrainConfig, evaluate_run, fit, open_dataset, plan, predict
from training_flax.files.listing import find_images
from training_flax.inference.command import main
from training_flax.runtime.signals import interrupts
from weights_flax import load_model, save_weights

ROOT = Path(__file__).parents[3]
NAMES = ("cat", "dog", "ship", "tench, Tinca tinca")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
RNG = np.random.default_rng(0)


def drawn(leaf):
    """Draws kernels that keep the size of activations, a head of moderate confidence, scales and variances near one."""
    if len(leaf.shape) == 1:
        return RNG.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    gain = 2 if len(leaf.shape) == 4 else 1e-2
    return (RNG.standard_normal(leaf.shape) * (gain / prod(leaf.shape[:-1])) ** 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Writes a file of weights with a card."""
    model = resnet18(width=4, num_classes=4)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    variables = jax.tree.map(drawn, shapes)
    variables["params"]["fc"]["bias"][:] = 0
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    return save_weights(model, variables, path, class_names=NAMES, mean=MEAN, std=STD)


def write_images(folder, count, size=(32, 32)):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04d}.png" for i in range(count)]
    for path in paths:
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes a working directory with images and other files."""
    monkeypatch.chdir(tmp_path)
    write_images(Path("images/b"), 2)
    write_images(Path("images/a"), 3)
    write_images(Path("images/.hidden"), 1)
    Path("images/a/notes.txt").write_text("no image")
    return Path("images")


FOUND = ["images/a/0000.png", "images/a/0001.png", "images/a/0002.png", "images/b/0000.png", "images/b/0001.png"]


@pytest.mark.slow
def test_json_lines_are_what_the_function_gives(weights, folder, capsys):
    assert main(["--weights", str(weights), "--image-size", "32", "--batch-size", "2", "--json", "images"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == FOUND
    model, variables, _ = load_model(weights)
    wanted = predict(model, variables, FOUND, mean=MEAN, std=STD, image_size=32, batch_size=2)
    for line, probabilities, classes in zip(lines, *wanted, strict=True):
        assert [found["index"] for found in line["classes"]] == classes.tolist()
        assert [found["class"] for found in line["classes"]] == [NAMES[index] for index in classes]
        assert [np.float32(found["probability"]) for found in line["classes"]] == probabilities.tolist()
        assert set(line) == {"image", "classes"}
    assert (wanted.classes != np.arange(4)).any()  # class names differ from indices


def test_the_table_has_a_line_for_each_class_and_names_each_image_once(weights, folder, capsys):
    options = ["--weights", str(weights), "--image-size", "32", "--top", "2", "images"]
    assert main([*options, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main([*options, "--out", "table.txt"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    heading, *rows = Path("table.txt").read_text().splitlines()
    assert heading.split() == ["image", "class", "probability"]
    assert len(set(map(len, [heading, *rows]))) == 1  # columns
    cells = [[cell.strip() for cell in re.split(r"  +", row)] for row in rows]
    assert [row[0] for row in cells] == [name for path in FOUND for name in (path, "")]
    shown = [(row[1], row[2]) for row in cells]
    assert shown == [(c["class"], f"{100 * c['probability']:.2f} %") for line in lines for c in line["classes"]]
    assert "resnet18, 4 classes, sees 32×32 pixels, mean 0.5 0.4 0.3, std 0.2 0.25 0.3 (the file's)" in err
    assert re.search(r"5 images; [\d.]+ s, [\d.,]+ images/s; limited by (the network|decoding) \(waited", err)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trains a short run on digits, and writes its test images as files."""
    folder = tmp_path_factory.mktemp("run")
    config = TrainConfig("resnet20", steps=40, width=4, augment=(), ema=0.5, out=folder / "run")
    fit(plan(config), quiet=True)
    images = open_dataset("digits").test.images[:40]
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return folder / "run", config


def test_a_run_predicts_what_it_was_evaluated_to(run, capsys):
    """A run predicts by its averaged weights, at the size of its images, with its classes."""
    path, config = run
    evaluation = evaluate_run(replace(config, weights=path, out=None), quiet=True)
    assert main(["--run", str(path), "--top", "1", "--json", str(path.parent)]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    lines = [line for line in lines if Path(line["image"]).parent == path.parent]  # without the run's own pictures
    assert [line["classes"][0]["index"] for line in lines] == evaluation.predictions[:40].tolist()
    assert {line["classes"][0]["class"] for line in lines} <= set("0123456789")
    assert len({line["classes"][0]["class"] for line in lines}) > 1
    assert "sees 32×32 pixels" in err
    assert err.splitlines()[1].endswith(" (the run's)")


@pytest.mark.slow
def test_a_run_that_has_not_ended_predicts_from_its_newest_checkpoint(run, tmp_path, capsys):
    path, _ = run
    going = tmp_path / "going"
    going.mkdir()
    for name in ("config.json", "checkpoints"):
        (going / name).symlink_to(path / name)
    printed = []
    for folder in (path, going):
        assert main(["--run", str(folder), "--json", str(path.parent / "00.png")]) == 0
        printed.append(json.loads(capsys.readouterr().out)["classes"])
    for one, other in zip(*printed, strict=True):
        assert one == other | {"probability": pytest.approx(one["probability"], rel=1e-5)}


@pytest.mark.slow
def test_what_the_file_does_not_say_is_said_to_be_assumed(weights, folder, capsys):
    model, variables, _ = load_model(weights)
    save_weights(model, variables, "plain.pt")
    Path("classes.txt").write_text("\n".join(NAMES) + "\n")
    plain = ["--weights", "plain.pt", "--image-size", "32", "--top", "1", "--json", FOUND[0]]
    assert main(plain) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["classes"][0]
    assert found["class"] == str(found["index"])
    assert "no names of classes are known" in err
    assert "ImageNet's stand for them" in err
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225 (ImageNet's)" in err
    assert main([*plain, "--mean", "0.5", "0.4", "0.3"]) == 0
    err = capsys.readouterr().err
    assert "mean 0.5 0.4 0.3, std 0.229 0.224 0.225 (mean: as given; std: ImageNet's)" in err
    assert "ImageNet's stand for them" in err
    told = ["--classes", "classes.txt", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.25,0.3"]
    assert main([*plain, *told]) == 0
    out, err = capsys.readouterr()
    assert "known" not in err
    assert "std 0.2 0.25 0.3 (as given)" in err
    blanks = ["--mean", "0.5", "0.4", "0.3", "--std=0.2", "0.25", "0.3"]
    assert main([*plain, "--classes", "classes.txt", *blanks]) == 0
    assert capsys.readouterr().out == out
    assert main(["--weights", str(weights), *plain[2:]]) == 0
    with_card = json.loads(capsys.readouterr().out)
    assert json.loads(out) == with_card
    assert with_card["classes"][0]["class"] in NAMES


def test_broken_images_are_named_and_skipped(weights, folder, capsys):
    Path("images/a/0001.png").write_bytes(Path("images/a/0001.png").read_bytes()[:300])
    given = ["--weights", str(weights), "--image-size", "32", "--json", "images", "missing.png"]
    assert main(given) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["image"] for line in out.splitlines()] == [FOUND[0], *FOUND[2:]]
    named = [line for line in err.splitlines() if line.endswith("skipped")]
    assert len(named) == 2
    assert named[0].startswith("predict: 'images/a/0001.png': ")
    assert named[1] == "predict: 'missing.png': No such file or directory; skipped"
    assert "4 images, 2 skipped; " in err


def test_a_list_on_stdin_names_files_and_folders(weights, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{FOUND[4]}\n\nimages/a\r\n"))
    assert main(["--weights", str(weights), "--image-size", "32", "--json", FOUND[3], "-"]) == 0
    lines = [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()]
    assert lines == [FOUND[3], FOUND[4], *FOUND[:3]]


def test_folders_are_searched_once_even_in_a_circle(folder):
    (folder / "b" / "again").symlink_to(folder.absolute())
    (folder / "c").symlink_to((folder / "a").absolute())
    assert find_images(["images"], ()) == FOUND


def test_the_picture_shows_the_first_images(weights, folder, capsys):
    assert main(["--weights", str(weights), "--image-size", "32", "--picture", "p.png", "images"]) == 0
    assert "the first 5 are in p.png" in capsys.readouterr().err
    with Image.open("p.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] > pixels.shape[0]
    # The five pictures are noise in columns with white gaps between them.
    painted = (pixels.std(0).sum(-1) > 100).astype(int)
    assert (np.diff(painted) == 1).sum() + painted[0] == 5
    assert sorted(path.name for path in Path().iterdir()) == ["images", "p.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images"], "give --run DIR or --weights FILE; neither is given"),
        (["--run", "r", "--weights", "w", "images"], "give --run DIR or --weights FILE; both are given"),
        (["--run", "r", "--arch", "resnet18", "images"], "--arch is for --weights: a run knows its own"),
        (["--run", "nowhere", "images"], "'nowhere' is no run: it has no config.json"),
        (["--run", "damaged", "images"], "'damaged/config.json' is damaged"),
        (["--run", "emptied", "images"], "'emptied/config.json' is damaged"),
        (["--weights", "nowhere.pt", "images"], "weights 'nowhere.pt': there is no such file"),
        (["--weights", "W", "--arch", "resnet34", "images"], "are not those of resnet34"),
        (["--weights", "W", "--arch", "resnt18", "images"], "unknown arch 'resnt18'; did you mean 'resnet18'?"),
        (["--weights", "W"], "give images: files, folders, or - for a list of them on stdin"),
        (["--weights", "W", "empty"], "there is no image in 'empty'"),
        (["--weights", "W", "--top", "5", "images"], "top must be from 1 to the number of classes, 4; given 5"),
        (
            ["--weights", "W", "--mean", "a,b", "images"],
            "mean must be numbers, with commas or blanks between them; given 'a,b'",
        ),
        (["--weights", "W", "--std", "1,2", "images"], "std must be 3 numbers, none of them 0"),
        (["--weights", "W", "--crop", "2", "images"], "crop must be over 0 and at most 1; given 2.0"),
        (["--weights", "W", "--classes", "none", "images"], "classes 'none' cannot be read: No such file or directory"),
        (["--weights", "W", "--classes", "three", "images"], "classes 'three' must be 4 lines, one for each; given 3"),
        (["--weights", "W", "--dtype", "int8", "images"], "unknown dtype 'int8'"),
        (["--weights", "W", "--batch-size", "0", "images"], "batch_size must be a positive integer; given 0"),
        (["--weights", "W", "--workers", "0", "images"], "workers must be a positive integer; given 0"),
        (["--weights", "W", "--out", "nowhere/out", "images"], "out 'nowhere/out' cannot be written"),
        (["--weights", "W", "--out", "W", "images"], "would replace a file that is read; name another"),
        (["--weights", "W", "--out", "FIRST", "images"], "would replace a file that is read; name another"),
        (["--weights", "W", "--picture", "FIRST", "images"], "would replace a file that is read; name another"),
        (["--weights", "W", "--picture", "p.xyz", "images"], "unknown ending of a picture '.xyz'"),
        (["--weights", "W", "--picture", "nowhere/p.png", "images"], "picture 'nowhere/p.png' cannot be written"),
        (["--weight", "W", "images"], "Unrecognized options: --weight"),
    ],
)
def test_wrong_input_gets_one_line(arguments, message, weights, folder, capsys):
    for name, text in (("damaged", "{"), ("emptied", '{"dtype": "float32"}')):
        Path(name).mkdir()
        Path(name, "config.json").write_text(text)
    Path("empty").mkdir()
    Path("three").write_text("a\nb\nc\n")
    before = sorted(Path().rglob("*"))
    files = {"W": str(weights), "FIRST": str(FOUND[0])}
    assert main([files.get(word, word) for word in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *_, last = err.splitlines()
    assert last.startswith("predict: error: ")
    assert message in last
    assert err.count("predict: error") == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.slow
def test_names_that_are_no_text_are_predicted_too(weights, folder):
    name = os.fsdecode(b"images/a/\xff.png")
    shutil.copy(FOUND[0], name)
    process = start("--weights", str(weights), "--image-size", "32", "--json", "-", stdin=subprocess.PIPE)
    out, err = process.communicate(name + "\n")
    assert process.returncode == 0, err
    assert json.loads(out)["image"] == name


def start(*arguments, code=None, **options):
    """Runs the command in its own process, with warnings as errors."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    command = [sys.executable, "-W", "error", *(["-c", code] if code else ["-m", "training_flax.predict"])]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, *arguments],
        env=environment,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors="surrogateescape",
        **options,
    )


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_command_quietly(weights, folder):
    paths = [str(folder.absolute() / "a")] * 400
    process = start("--weights", str(weights), "--image-size", "32", "--batch-size", "8", *paths)
    assert process.stdout.readline().split() == ["image", "class", "probability"]
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read()
    assert process.wait(60) == 0
    assert [line for line in err.splitlines() if "sees 32×32" not in line] == []


@pytest.mark.slow
def test_an_interrupt_ends_the_command_without_a_traceback_or_a_file(weights, folder):
    paths = [str(folder.absolute() / "a")] * 4000
    process = start("--weights", str(weights), "--image-size", "64", "--batch-size", "8", *paths)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "predict: interrupted"
    assert "Traceback" not in err


def test_an_interrupt_that_a_callback_swallows_is_not_lost():
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as check:
        check()
        with suppress(KeyboardInterrupt):  # as in a callback of another library
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) == before


PEAK = """
import sys
from pathlib import Path
from training_flax.inference.command import PROG, CommandLine, main
code = main(sys.argv[1:])
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], file=sys.stderr)
sys.exit(code)
"""


def peak(weights, out, images):
    """Returns the command's peak memory in megabytes, and the number of images in its output."""
    # Batches are small, because the devices hold one or two at the peak, by chance.
    options = ["--weights", str(weights), "--image-size", "128", "--batch-size", "16", "--json", "--out", str(out)]
    process = start(*options, *images, code=PEAK)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return int(err.splitlines()[-1]) / 1024, len(out.read_text().splitlines())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(weights, tmp_path):
    images, out = write_images(tmp_path / "images", 1000, (16, 16)), tmp_path / "out.jsonl"
    peak(weights, out, images[:16])  # the first run compiles, which takes memory; the others use the cache
    once, count = peak(weights, out, [str(tmp_path / "images")])
    twice, double = peak(weights, out, [str(tmp_path / "images")] * 2)
    assert (count, double) == (1000, 2000)
    # The pixels of 1,000 more images, at the network's size, are 47 MB.
    assert twice - once < 20
