"""Runs and files of weights that are evaluated: a run alone says its data, and no classifier is drawn."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import training_flax
from resnet_flax import resnet20
from theory_flax.base.options import Options
from theory_flax.experiments.networks import data_name, dataset_of
from training_flax import TrainConfig, evaluate_run, fit, train_command
from training_flax.inference.command import main as predict
from training_flax.run.comparison import main as compare
from weights_flax import load_model, read_card, save_weights
from weights_flax.__main__ import main as weights_command

LLVM = 1
FAKE = dict(arch="resnet20", width=4, data="fake:8x8x3:4:64", batch_size=16, steps=4, ema=0.5, seed=3)
PHOTOS = dict(arch="resnet20", width=4, data="folder:photos", batch_size=8, steps=4, image_size=12)
MODULE = sys.modules["training_flax.evaluate"]


def photos(root, classes=("cat", "dog", "owl")):
    """Writes a folder of small JPEGs of several sizes, whose test part is called val."""
    for label, name in enumerate(classes):
        for part, count in (("train", 6), ("val", 4)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng((label, index)).integers(0, 128, (14 + index, 16, 3)) + 40 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{index}.jpg")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Trains one run on fake data and one on a folder, in a folder of their own."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        photos(root / "photos")
        for name, options in (("fake", FAKE), ("folder", PHOTOS)):
            fit(TrainConfig(**options, out=Path(name)), quiet=True)
    return root


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """Copies the runs and the photos to the working directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("keep_compiled_programs", "keep_memory"):
        monkeypatch.setattr(train_command, name, lambda: None)
    return tmp_path


@pytest.fixture
def train(here, capsys):
    """Makes the function from the words of a command to its exit code and the lines of both streams."""

    def run(*words):
        capsys.readouterr()
        code = train_command.main([str(word) for word in words])
        return code, *(text.splitlines() for text in capsys.readouterr())

    return run


LINE = re.compile(
    r"test accuracy of the (?P<weights>.*) on (?P<data>\S+) "
    r"\((?P<part>\S+), (?P<images>[\d,]+) images; mean (?P<mean>[\d. ]+), std (?P<std>[\d. ]+)\): "
    r"(?P<accuracy>[\d.]+) % \((?P<right>[\d,]+) right\), loss (?P<loss>[\d.]+)"
)


def read(line):
    found = LINE.fullmatch(line)
    assert found, line
    return found.groupdict()


DATA = {
    "fake": dict(weights="averaged weights after step 4", data="fake:8x8x3:4:64", part="test", images="256"),
    "folder": dict(weights="last weights after step 4", data="folder:photos", part="val", images="12"),
}


@pytest.mark.parametrize("run", DATA)
def test_a_run_alone_gives_the_accuracy_of_its_summary_and_names_its_data(run, train):
    summary, config = (json.loads((Path(run) / name).read_text()) for name in ("summary.json", "config.json"))
    code, out, err = train("--out", run, "--eval-only")
    assert (code, len(out)) == (0, 1), err
    said = read(out[0])
    assert {name: said[name] for name in DATA[run]} == DATA[run]
    assert float(said["accuracy"]) == round(100 * summary["test_accuracy"], 2)
    assert int(said["right"]) == round(summary["test_accuracy"] * summary["test_examples"])
    assert float(said["loss"]) == pytest.approx(summary["test_loss"], abs=1e-4)
    for name in ("mean", "std"):
        assert said[name] == " ".join(f"{value:.3f}" for value in config["normalisation"][name])
    assert evaluate_run(TrainConfig(out=run), quiet=True).accuracy == summary["test_accuracy"]


@pytest.mark.slow
def test_the_line_at_the_end_of_a_training_is_that_of_an_evaluation(train, here):
    shutil.rmtree("fake/checkpoints/4")
    (here / "fake/summary.json").unlink()
    for name in ("model.safetensors", "model_ema.safetensors"):
        (here / "fake" / name).unlink()
    code, out, err = train("--out", "fake")
    assert code == 0, err
    assert train("--out", "fake", "--eval-only")[1] == [line for line in out if line.startswith("test accuracy")]


@pytest.mark.parametrize("which", ["averaged", "last"])
def test_the_weights_of_a_run_can_be_chosen_and_are_named(which, train):
    code, out, _ = train("--out", "fake", "--eval-only", "--which", which)
    assert (code, read(out[0])["weights"]) == (0, f"{which} weights after step 4")


@pytest.mark.slow
@pytest.mark.parametrize("run", DATA)
def test_options_that_agree_may_be_given_beside_a_run(run, train):
    alone = train("--out", run, "--eval-only")
    options = FAKE if run == "fake" else PHOTOS
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert train(*words, "--out", run, "--eval-only") == alone
    assert train("--weights", run, "--eval-only") == alone
    assert train("--out", run, "--eval-only", "--batch-size", "7")[1] == alone[1]


@pytest.mark.parametrize("run", DATA)
def test_a_finished_run_says_so(run, train):
    steps = {"fake": 4, "folder": 4}[run]
    assert train("--out", run) == (0, [f"{run} is finished: {steps} steps; its results are in summary.json"], [])
    code, out, _ = train("--out", run, "--print-config")
    assert (code, json.loads("".join(out))["data"]) == (0, DATA[run]["data"])


@pytest.mark.slow
def test_a_file_of_a_run_knows_its_data(train):
    code, out, err = train("--weights", "fake/model_ema.safetensors", "--eval-only")
    assert code == 0, err
    said = read(out[0])
    assert said["weights"] == "averaged weights after step 4 in fake/model_ema.safetensors"
    whole = read(train("--out", "fake", "--eval-only")[1][0])
    assert {**said, "weights": None} == {**whole, "weights": None}
    code, out, err = train("--weights", "folder/model.safetensors", "--eval-only")
    assert (code, read(out[0])["part"], read(out[0])["right"]) == (
        0,
        "val",
        read(train("--out", "folder", "--eval-only")[1][0])["right"],
    )


def test_data_of_a_card_that_are_not_here_are_said_to_be_the_cards(train, here):
    (here / "photos").rename(here / "moved")
    code, out, err = train("--weights", "folder/model.safetensors", "--eval-only")
    assert (code, out) == (2, [])
    assert err == [
        "train.py: error: 'photos': No such file or directory; these data are named by the card of weights "
        "'folder/model.safetensors', others by --data"
    ]
    code, out, err = train("--weights", "folder/model.safetensors", "--data", "folder:moved", "--eval-only")
    assert (code, read(out[0])["data"]) == (0, "folder:moved"), err
    assert train("--out", "folder", "--data", "folder:moved", "--eval-only")[1][0].startswith(
        "test accuracy of the last"
    )


@pytest.mark.slow
def test_weights_can_be_evaluated_on_other_data(train, here):
    photos(here / "others")
    for source in ("folder", "folder/model.safetensors"):
        code, out, err = train("--weights", source, "--data", "folder:others", "--eval-only")
        assert code == 0, err
        assert read(out[0])["data"] == "folder:others"
        assert read(out[0])["right"] == read(train("--out", "folder", "--eval-only")[1][0])["right"]


def test_a_card_says_data_and_is_carried_over_by_a_conversion(here):
    expected = {"data": "folder:photos", "image_size": 12}
    assert read_card("folder/model.safetensors")["data"] == expected
    assert weights_command(["convert", "folder", "--out", "copy.npz"]) == 0
    assert read_card("copy.npz")["data"] == expected
    shutil.rmtree("folder/checkpoints")
    assert load_model("folder").card["data"] == expected


def bare(path="bare.safetensors", **about):
    """Writes weights of four classes whose card says neither data nor run."""
    model = resnet20(width=4, num_classes=4)
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), train=False)
    save_weights(model, jax.device_get(variables), path, **about)
    return path


@pytest.mark.slow
def test_weights_of_others_need_data_alone(train):
    code, out, err = train("--weights", bare(), "--data", "fake:8x8x3:4:64", "--eval-only")
    assert code == 0, err
    assert read(out[0])["weights"] == "weights in bare.safetensors"
    bare("bare.pth")
    assert train("--weights", "bare.pth", "--data", "fake:8x8x3:4:64", "--eval-only")[1] == [
        out[0].replace("bare.safetensors", "bare.pth")
    ]
    bare("bare.npz", mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 3.0])
    said = read(train("--weights", "bare.npz", "--data", "fake:8x8x3:4:64", "--eval-only")[1][0])
    assert (said["mean"], said["std"]) == ("0.100 0.200 0.300", "1.000 2.000 3.000")


FOUR, FILE = ("--data", "fake:8x8x3:4:64"), "bare.safetensors"
WRONG = {
    "nothing": ((), "evaluation needs weights, or the folder of a run as out; neither is given"),
    "no run": (("--out", "absent"), "out 'absent' holds no run to evaluate; weights takes files of weights"),
    "a folder that is no run": (("--out", "photos"), "out 'photos' holds no run to evaluate; weights takes"),
    "other data": (
        ("--out", "fake", "--data", "digits"),
        "out 'fake' holds another run, which differs in data ('fake:8x8x3:4:64' there, 'digits' now); --weights RUN "
        "--data NAME evaluates on other data",
    ),
    "other noise": (
        ("--out", "fake", "--data", "fake:8x8x3:4:32"),
        "out 'fake' holds another run, which differs in train_examples (64 there, 32 now), normalisation ",
    ),
    "another network": (
        ("--out", "fake", "--arch", "resnet32"),
        "out 'fake' holds another run, which differs in arch ('resnet20' there, 'resnet32' now); --weights RUN",
    ),
    "another width": (("--out", "fake", "--width", "8"), "out 'fake' holds another run, which differs in model width"),
    "the default of an option": (
        ("--out", "fake", "--seed", "0", "--ema", "0"),
        "out 'fake' holds another run, which differs in ema (0.5 there, 0.0 now), seed (3 there, 0 now)",
    ),
    "another type": (
        ("--out", "fake", "--dtype", "bfloat16"),
        "out 'fake' holds another run, which differs in dtype ('float32' there, 'bfloat16' now)",
    ),
    "a new head of a run": (("--out", "fake", "--new-head"), "out 'fake' holds another run, which differs in new_head"),
    "other classes of a run": (
        ("--out", "fake", "--num-classes", "7"),
        "out 'fake' holds another run, which differs in num_classes (4 there, 7 now)",
    ),
    "averages that a run lacks": (
        ("--out", "folder", "--which", "averaged"),
        "run 'folder' has no averaged weights; it was trained with ema 0",
    ),
    "weights that no run is": (("--out", "fake", "--which", "newest"), "unknown which 'newest'; allowed: "),
    "longer, but not trained": (
        ("--out", "fake", "--extend", "--steps", "9"),
        "eval_only trains nothing, and extend trains longer; give one of them",
    ),
    "weights without data": (
        ("--weights", FILE),
        f"evaluation needs data (--data): the card of weights '{FILE}' names none",
    ),
    "weights and no data of torch": (
        ("--weights", "bare.pth", "--arch", "resnet20"),
        "evaluation needs data (--data): the card of weights 'bare.pth' names none",
    ),
    "no weights": (("--weights", "absent", *FOUR), "weights 'absent': there is no such file"),
    "data of other classes": (
        ("--weights", FILE, "--data", "digits"),
        f"weights '{FILE}' have 4 classes, and digits has 10: evaluate on data of 4 classes, or train a classifier",
    ),
    "data of other classes for a run": (
        ("--weights", "fake", "--data", "digits"),
        "weights 'fake' have 4 classes, and digits has 10: evaluate on data of 4 classes, or train a classifier",
    ),
    "a new head": (
        ("--weights", FILE, "--new-head", *FOUR),
        "new_head draws a classifier from random values, which says nothing in an evaluation",
    ),
    "other classes": (
        ("--weights", FILE, "--num-classes", "10", "--data", "digits"),
        f"num_classes must be the 4 of weights '{FILE}'; given 10",
    ),
    "other classes of torch": (
        ("--weights", "bare.pth", "--arch", "resnet20", "--num-classes", "10", "--data", "digits"),
        "weights 'bare.pth' have 4 classes, and digits has 10",
    ),
    "a network that does not fit": (
        ("--weights", FILE, "--arch", "resnet32", *FOUR),
        f"weights '{FILE}' are not those of resnet32: ",
    ),
    "an option of another family": (
        ("--weights", FILE, "--arch", "resnet20", "--growth-rate", "4", *FOUR),
        "resnet20 has no option growth_rate; it has ",
    ),
    "an unknown network": (("--weights", FILE, "--arch", "resnet21", *FOUR), "unknown arch 'resnet21'; did you mean "),
    "an unknown type": (("--weights", FILE, "--dtype", "int8", *FOUR), "unknown dtype 'int8'; allowed: 'float32', "),
    "an unknown type of a run": (("--out", "fake", "--dtype", "int8"), "out 'fake' holds another run, which differs"),
    "an unknown data set": (("--weights", FILE, "--data", "cifar"), "unknown data set 'cifar'; allowed: 'digits', "),
    "no batch": (("--out", "fake", "--batch-size", "0"), "batch_size must be a positive integer; given 0"),
    "no classifier": (("--weights", "no-head.st", "--arch", "resnet20", *FOUR), "weights 'no-head.st' are not "),
    "classes in another order": (
        ("--weights", "turned.npz", *FOUR),
        "class 0 is '3' in weights 'turned.npz', and '0' in the data: the classes have another order",
    ),
    "a damaged card": (("--weights", "odd.npz", *FOUR), "weights 'odd.npz' cannot be read: its card is damaged: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_evaluation_gets_one_line(case, train, here):
    arguments, message = WRONG[case]
    bare()
    bare("bare.pth")
    bare("turned.npz", class_names=["3", "2", "1", "0"])
    bare("odd.npz", data={"data": 5})
    save_file({name: value for name, value in load_file(FILE).items() if not name.startswith("fc")}, "no-head.st")
    before = sorted(here.rglob("*"))
    code, out, err = train(*arguments, "--eval-only")
    assert (code, out) == (2, []), err
    (line,) = (line for line in err if "are taken for resnet20 by names and shapes alone" not in line)
    assert line.startswith(f"train.py: error: {message}")
    assert "draws the classifier anew" not in line
    assert "differs in" not in line or len(line) <= 200
    assert sorted(here.rglob("*")) == before


def test_other_names_of_classes_are_told_and_compared_by_order(train):
    bare("named.npz", class_names=["heron", "owl", "wren", "3"])
    code, _, err = train("--weights", "named.npz", *FOUR, "--eval-only")
    assert code == 0
    assert err == [
        "class 0 is 'heron' in weights 'named.npz', and '0' in the data: classes are compared by their order"
    ]


def test_test_images_that_changed_are_refused_and_train_images_may(train, here):
    before = train("--out", "folder", "--eval-only")
    shutil.copy("photos/train/cat/0.jpg", "photos/train/cat/9.jpg")
    assert train("--out", "folder", "--eval-only") == before  # and sees the mean and std of the training
    shutil.copy("photos/val/cat/0.jpg", "photos/val/cat/9.jpg")
    code, out, err = train("--out", "folder", "--eval-only")
    assert (code, out) == (2, [])
    assert err[0].startswith(
        "train.py: error: out 'folder' holds another run, which differs in test_examples (12 there, 13 now), test_files"
    )
    assert len(err[0]) <= 200


@pytest.mark.slow
def test_a_run_in_float64_is_evaluated_in_float64(here, monkeypatch):
    fit(TrainConfig(**FAKE | {"steps": 1, "ema": 0.0, "dtype": "float64"}, out="double"), quiet=True)
    seen = []

    def evaluate(model, variables, *args, **options):
        seen.extend(jax.tree.leaves(variables))
        return training_flax.evaluate(model, variables, *args, **options)

    monkeypatch.setattr(MODULE, "evaluate", evaluate)
    found = evaluate_run(TrainConfig(out="double"), quiet=True)
    assert {leaf.dtype for leaf in seen} == {np.dtype("float64")}
    assert found.accuracy == json.loads(Path("double/summary.json").read_text())["test_accuracy"]


# Runs where weights are taken: --run, --weights, or as they stand.


@pytest.mark.slow
def test_predictions_take_a_run_by_either_option(here, capsys):
    lines = []
    for source in (["--run", "folder"], ["--weights", "folder"], ["--weights", "folder", "--arch", "resnet20"]):
        assert predict([*source, "--json", "photos/val/cat/0.jpg"]) == 0
        lines.append(capsys.readouterr().out)
    assert len(set(lines)) == 1
    assert predict(["--weights", "folder", "--arch", "resnet32", "photos/val/cat/0.jpg"]) == 2
    assert "a run knows its own" in capsys.readouterr().err


def test_exports_and_inspection_take_a_run(here, capsys):
    for out, source in (("a.pth", ["--run", "folder"]), ("b.pth", ["--weights", "folder"])):
        assert weights_command(["export", *source, "--format", "torch", "--out", out]) == 0
    assert Path("a.pth").read_bytes() == Path("b.pth").read_bytes()
    capsys.readouterr()
    assert weights_command(["inspect", "folder"]) == 0
    assert "data      data=folder:photos, image_size=12\n" in capsys.readouterr().out
    assert compare(["folder", "fake", "--out", "compare.png"]) == 0


def test_theory_sees_the_images_of_the_run(here, tmp_path):
    options = Options("shattering", run=Path("folder"))
    dataset = dataset_of(options)
    stored = json.loads(Path("folder/config.json").read_text())
    assert (dataset.name, data_name(options)) == ("folder:photos", "folder:photos")
    assert (dataset.image_shape, [*dataset.mean]) == ((12, 12, 3), stored["normalisation"]["mean"])
    assert dataset_of(replace(options, data="folder:./photos")).class_names == ("cat", "dog", "owl")
    with pytest.raises(ValueError, match=r"^run 'folder' holds another run, which differs in data \('folder:photos' "):
        dataset_of(replace(options, data="digits"))
    with pytest.raises(ValueError, match=r"^'absent' is no run: it has no config\.json$"):
        dataset_of(replace(options, run=Path("absent")))
    assert dataset_of(Options("shattering")).name == "digits"
