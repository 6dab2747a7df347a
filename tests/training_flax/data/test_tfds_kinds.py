"""Data sets of many kinds, which TensorFlow Datasets itself wrote: each trains, or ends in one line that helps."""

import json
import os
import shutil
import struct
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training_flax import open_dataset, train_command
from training_flax.data.dataset import StreamedSplit
from training_flax.data.source import sum_of_files
from training_flax.run.programs import compile_programs

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")

from pictures_tfds import prepare  # noqa: E402

from training_flax.files.records import masked_crc, open_records  # noqa: E402

ARCHIVE = Path(__file__).parents[2] / "golden" / "tfds.tar.xz"
CLASSES = ("a", "b", "c")
CORE_SECONDS = 20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Unpacks the data sets."""
    root = tmp_path_factory.mktemp("tfds")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    return root


@pytest.fixture(scope="module")
def expected(made):
    """What TFDS read by TensorFlow: images and labels of train splits."""
    return json.loads((made / "expected.json").read_text())


COMPILED = {}


@pytest.fixture
def train(made, tmp_path, monkeypatch, capsys):
    """Makes the function (data, format, arguments) → exit code and stderr, of a run of two steps."""

    def compile_once(job):
        split = job.dataset.train
        streamed = isinstance(split, StreamedSplit)
        lengths = () if streamed else (len(split.labels), len(job.dataset.test.labels))
        key = (job.dataset.image_shape, streamed, lengths, len(job.dataset.class_names))
        if key not in COMPILED:
            COMPILED[key] = compile_programs(replace(job, config=replace(job.config, out=None)))
        return COMPILED[key]

    monkeypatch.setattr(sys.modules["training_flax.fit"], "compile_programs", compile_once)
    for name in ("keep_compiled_programs", "keep_memory"):
        monkeypatch.setattr(train_command, name, lambda: None)

    def run(data, stored="array_record", *arguments, channels=3):
        moments = [option for name in ("--mean", "--std") for option in (name, *["0.5"] * channels)]
        network = ["--arch", "resnet20", "--width", "4", "--batch-size", "4", "--steps", "2", "--schedule", "constant"]
        where = ["--data", data, "--data-dir", str(made / stored), "--out", str(tmp_path / "run")]
        code = train_command.main([*network, "--augment", "none", *moments, *where, *arguments])
        return code, capsys.readouterr().err

    return run


TRAINED = {
    "plain": {},
    "string_label_in": {},
    "num_classes_only": {"classes": ("0", "1", "2")},
    "jpeg": {"streamed": True},
    "grey": {"channels": 1},
    "rgba": {},
    "sixteen": {"channels": 1},
    "tensor_image": {},
    "int_label": {"classes": ("0", "1", "2")},
    "text_label": {},
    "other_keys": {},
    "extra": {},
    "only_train[:75%]": {"counts": (9, 3)},
    "only_train:75%": {"counts": (9, 3)},
    "train_validation": {},
    "odd_splits": {},
    "unlabelled_test": {},
    "configured/big": {},
}
REFUSED = {
    "floats": "it has image (Image), label (ClassLabel): 'image' has pixels of float32: store uint8 or uint16",
    "multi": "it has image (Image), label (Sequence): 'label' is a Sequence, a list for each example: store one",
    "only_train": "hold out a fifth of it with --data 'tfds:only_train[:80%]', or name a split with --test-split",
    "configured": "in the configurations big; name one: tfds:configured/big",
    "configured/small": "which has its configurations big; prepare it",
    "plain[:80": "a part of the train split is named as TFDS does, such as plain[:80%] or [1000:]; given 'plain[:80'",
    "plain[80]": "a part of the train split is named as TFDS does, such as plain[:80%] or [1000:]; given 'plain[80]'",
    "plain[:200%]": "split 'train[:200%]'",
    "plain[12:]": "split 'train[12:]' has no examples",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_one_image_and_one_label_train(name, train, made, tmp_path):
    about = {"channels": 3, "classes": CLASSES, "streamed": False, "counts": (12, 12)} | TRAINED[name]
    code, err = train(f"tfds:{name}", channels=about["channels"])
    assert (code, err) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["train_examples"], summary["test_examples"]) == about["counts"]
    dataset = open_dataset(f"tfds:{name}", data_dir=made / "array_record")
    assert dataset.class_names == about["classes"]
    assert isinstance(dataset.train, StreamedSplit) == about["streamed"]
    assert dataset.image_shape == ((32, 32, 3) if about["streamed"] else (8, 8, about["channels"]))


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_name_what_to_change(name, train, tmp_path):
    code, err = train(f"tfds:{name}")
    assert code == 2
    assert err.startswith("train.py: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert REFUSED[name] in err
    assert not (tmp_path / "run").exists()


FORMATS = [("array_record", "plain"), ("tfrecord", "plain"), ("parquet", "plain"), ("tfrecord", "extra")]


@pytest.mark.slow
@pytest.mark.parametrize(("stored", "name"), [*FORMATS, ("parquet", "extra"), ("sharded", "other_keys")])
def test_every_format_trains(stored, name, train):
    assert train(f"tfds:{name}", stored) == (0, "")


KEPT = [("plain", "array_record"), ("plain", "tfrecord"), ("plain", "parquet"), ("int_label", "array_record")]
KEPT += [(name, "array_record") for name in ("grey", "sixteen", "rgba", "tensor_image")]


@pytest.mark.parametrize(("name", "stored"), KEPT)
def test_images_and_labels_are_those_that_tfds_reads(name, stored, made, expected):
    """Examples are written in one order whatever the format."""
    split = open_dataset(f"tfds:{name}", data_dir=made / stored).train
    images = np.array(expected[f"{name}/images"])
    if name == "sixteen":
        images = images >> 8
    if name == "rgba":  # over black
        images = np.rint(images[..., :3] * (images[..., 3:] / 255))
    np.testing.assert_array_equal(split.labels, expected[f"{name}/labels"])
    np.testing.assert_allclose(split.images, images, atol=0.5 if name == "rgba" else 0)


SPLITS = ["train", "train[:80%]", "train[80%:]", "train[3:-2]", "train[:1shard]", "test[50%:]+train[:2]", "all"]


@pytest.mark.parametrize("split", SPLITS)
def test_slices_are_those_of_tfds_in_every_format(split, made):
    """array_record is read by TFDS's own reader."""
    taken = {}
    for stored in ("array_record", "tfrecord", "parquet"):
        dataset = open_dataset("tfds:plain", data_dir=made / stored, train_split=split, test_split="test")
        taken[stored] = dataset.train.images
    source = tfds.builder_from_directory(made / "array_record" / "plain" / "1.0.0").as_data_source(split)
    assert len(source) == len(taken["array_record"])
    for images in taken.values():
        np.testing.assert_array_equal(images, [example["image"] for example in source])


@pytest.mark.parametrize("split", ["train", "train[:50%]", "train[4:9]", "train[5:6]"])
def test_slices_reach_over_shards(split, made, expected):
    dataset = open_dataset("tfds:other_keys", data_dir=made / "sharded", train_split=split, test_split="test")
    assert len(list((made / "sharded").rglob("*-train.*"))) == 3
    start, end = {"train": (0, 12), "train[:50%]": (0, 6), "train[4:9]": (4, 9), "train[5:6]": (5, 6)}[split]
    np.testing.assert_array_equal(dataset.train.images, expected["sharded/images"][start:end])
    np.testing.assert_array_equal(dataset.train.labels, expected["sharded/labels"][start:end])


CHOSEN = {
    "the rest": ("only_train[:75%]", {}, "trains on train[:75%], tests on train[75%:]", 9, 3),
    "the end": ("only_train[4:]", {}, "trains on train[4:], tests on train[:4]", 8, 4),
    "the middle": ("only_train[2:10]", {}, "trains on train[2:10], tests on train[:2]+train[10:]", 8, 4),
    "from behind": ("only_train[:-3]", {}, "trains on train[:-3], tests on train[-3:]", 9, 3),
    "its own test split": ("plain[:50%]", {}, "trains on train[:50%], tests on test", 6, 12),
    "a version": ("plain:1.0.0[:50%]", {}, "trains on train[:50%], tests on test", 6, 12),
    "options": (
        "plain",
        dict(train_split="train[:50%]", test_split="train[50%:]"),
        "trains on train[:50%], tests on train[50%:]",
        6,
        6,
    ),
    "sums": ("train_validation", dict(train_split="train+validation[:6]", test_split="validation[6:]"), None, 18, 6),
    "other names": ("odd_splits", dict(train_split="testing", test_split="training"), None, 12, 12),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_splits_are_chosen_as_asked_and_told(case, made):
    name, options, note, train_count, test_count = CHOSEN[case]
    dataset = open_dataset(f"tfds:{name}", data_dir=made / "array_record", **options)
    assert dataset.notes == ((note or f"trains on {options['train_split']}, tests on {options['test_split']}"),)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (train_count, test_count)
    trained = {image.tobytes() for image in dataset.train.images}
    assert not any(image.tobytes() in trained for image in dataset.test.images)


def test_test_images_among_the_train_images_are_told(made):
    options = dict(train_split="train", test_split="train[80%:]")
    notes = open_dataset("tfds:plain", data_dir=made / "array_record", **options).notes
    assert notes == ("trains on train, tests on train[80%:]", "2 of the test images are train images too")


def test_parts_have_sums_of_their_own(made):
    sums = set()
    for stored, name in (("array_record", "plain"), ("array_record", "plain[:50%]"), ("array_record", "plain[:51%]")):
        dataset = open_dataset(f"tfds:{name}", data_dir=made / stored)
        sums.add(dataset.train_files)
    assert len(sums) == 3


def renamed(made, tmp_path, template):
    """Copies `train_validation`, its files named by another template of TFDS, and "validation" called "test-train"."""
    folder = tmp_path / "train_validation" / "1.0.0"
    shutil.copytree(made / "array_record" / "train_validation" / "1.0.0", folder)
    text = (folder / "dataset_info.json").read_text().replace('"validation"', '"test-train"')
    values = json.loads(text)
    for split in values["splits"]:
        before = "validation" if split["name"] == "test-train" else split["name"]
        [path] = folder.glob(f"*-{before}.array_record*")
        split["filepathTemplate"] = template
        names = {"DATASET": "train_validation", "SPLIT": split["name"], "FILEFORMAT": "array_record"}
        name = template.replace("{SHARD_X_OF_Y}", "00000-of-00001")
        for key, value in names.items():
            name = name.replace(f"{{{key}}}", value)
        path.rename(folder / name)
    (folder / "dataset_info.json").write_text(json.dumps(values))
    return tmp_path


TEMPLATES = ["{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "x_{SPLIT}_{SHARD_X_OF_Y}.{FILEFORMAT}", "{SPLIT}-{SHARD_X_OF_Y}"]
TEMPLATES += ["{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_files_of_any_names_have_their_sums(template, made, tmp_path):
    root = renamed(made, tmp_path, template)
    options = dict(data_dir=root, test_split="test-train")
    seen = set()
    for train in ("train", "test-train", "all", "train[:50%]"):
        dataset = open_dataset("tfds:train_validation", train_split=train, **options)
        files = [
            path for path in (root / "train_validation" / "1.0.0").iterdir() if path.suffix not in (".json", ".txt")
        ]
        wanted = [path for path in files if train == "all" or ("test" in train) == ("test-train" in path.name)]
        assert dataset.train_bytes == sum(path.stat().st_size for path in wanted) > 0
        seen.add(dataset.train_files)
    assert len(seen) == 4


def test_sums_of_files_stay_what_they_were(made):
    """Runs keep them, and go on by them alone."""
    whole = open_dataset("tfds:other_keys", data_dir=made / "sharded")
    names = sorted(f"1.0.0/{path.name}" for path in (made / "sharded").rglob("*-train.*"))
    assert (len(names), whole.train_files) == (3, sum_of_files(names))
    part = open_dataset("tfds:other_keys[:20%]", data_dir=made / "sharded")
    assert part.train_files == sum_of_files([*names, "train[:20%]"])


def test_other_labels_in_files_of_the_same_size_are_noticed(tmp_path):
    sums, sizes = [], set()
    for name, labels in (("a", [0, 1, 2] * 4), ("b", [1, 0, 2] * 4), ("c", [0, 1, 2] * 4)):
        prepare(tmp_path / name, splits={"train": labels, "test": [2, 1, 0]})
        dataset = open_dataset("tfds:pictures", data_dir=tmp_path / name)
        sums.append((dataset.train_labels, dataset.test_labels))
        sizes.add((dataset.train_files, dataset.train_bytes))
    assert len(sizes) == 1
    assert sums[0] == sums[2] != sums[1]
    assert sums[0][1] == sums[1][1]


LEFT_OUT = {
    "no labels": [-1, -1],
    "one without a label": [2, -1, 0],
}
KINDS = {
    "class": (tfds.features.ClassLabel(names=["0", "1", "2"]), lambda label: label),
    "integer": (tfds.features.Scalar(np.int64), lambda label: label),
    "text": (tfds.features.Text(), lambda label: "" if label < 0 else f"{label}"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", LEFT_OUT)
def test_a_test_split_without_labels_is_left_out(kind, labels, tmp_path):
    feature, spelled = KINDS[kind]
    splits = {"train": [0, 1, 2] * 3, "test": LEFT_OUT[labels], "validation": [1, 0, 2]}
    prepare(tmp_path, label=feature, splits={name: list(map(spelled, part)) for name, part in splits.items()})
    dataset = open_dataset("tfds:pictures", data_dir=tmp_path)
    assert sorted(dataset.test.labels.tolist()) == [0, 1, 2]
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.notes == ("trains on train, tests on validation",)
    for option, split in (("test_split", "test"), ("train_split", "test")):
        if (kind, option) in (("integer", "train_split"), ("text", "train_split")):
            continue  # the values of the train split are classes
        with pytest.raises(ValueError) as error:
            open_dataset("tfds:pictures", data_dir=tmp_path, **{option: split, "test_split": "test"})
        assert f"examples of split 'test' have no label; name another with --{option.replace('_', '-')}" in str(
            error.value
        )


FEW = {
    "one name": (
        {"label": tfds.features.ClassLabel(names=["cat"]), "splits": {"train": [0] * 4, "test": [0]}},
        "1: cat",
    ),
    "one number": ({"label": tfds.features.Scalar(np.int64), "splits": {"train": [7] * 4, "test": [7]}}, "1: 7"),
    "one text": ({"label": tfds.features.Text(), "splits": {"train": ["a"] * 4, "test": ["a"]}}, "1: a"),
    "no boolean is true": (
        {"label": tfds.features.Scalar(np.bool_), "splits": {"train": [False] * 4, "test": [False]}},
        "1: 0",
    ),
}


@pytest.mark.parametrize("few", FEW)
def test_fewer_than_two_classes_are_refused(few, tmp_path):
    changes, said = FEW[few]
    prepare(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"there must be at least 2 classes; it has {said}$"):
        open_dataset("tfds:pictures", data_dir=tmp_path)


@pytest.mark.parametrize(
    "texts", [[b"caf\xe9", "caf\\xe9"], ["caf\u00e9", "cafe\u0301"]], ids=["bytes and their escape", "two spellings"]
)
def test_texts_that_become_one_name_are_refused(texts, tmp_path):
    prepare(tmp_path, label=tfds.features.Text(), splits={"train": texts * 3, "test": texts})
    with pytest.raises(ValueError, match=r"two classes have the name 'caf.*'; rename one$"):
        open_dataset("tfds:pictures", data_dir=tmp_path)


@pytest.mark.parametrize(("keys", "told"), [(("image", "label"), 0), (("picture", "kind"), 1)])
def test_features_that_nobody_named_are_told(keys, told, tmp_path):
    prepare(tmp_path, keys=keys)
    note = f"takes the features {keys[0]!r} and {keys[1]!r}, of {', '.join(sorted(keys))}"
    assert open_dataset("tfds:pictures", data_dir=tmp_path).notes == (note,) * told


NOTHING_LEFT = ["only_train[:100%]", "only_train:100%", "only_train[:99%]", "only_train[0:]", "only_train[:]"]


@pytest.mark.parametrize("name", NOTHING_LEFT)
def test_a_slice_that_leaves_nothing_for_tests(name, made):
    with pytest.raises(ValueError, match=r"is all of 'train', and nothing is left for tests; take less, such as train"):
        open_dataset(f"tfds:{name}", data_dir=made / "array_record")


@pytest.mark.parametrize(
    ("split", "rest"),
    [("train[:75%]", "train[75%:]"), ("train[4:]", "train[:4]"), ("train[2:9]", "train[:2]+train[9:]")],
)
def test_a_slice_named_as_the_train_split_leaves_the_rest_for_tests(split, rest, made):
    options = dict(data_dir=made / "array_record", train_split=split)
    assert open_dataset("tfds:only_train", **options).notes == (f"trains on {split}, tests on {rest}",)
    assert open_dataset("tfds:plain", **options).notes == (f"trains on {split}, tests on test",)


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("TRAIN", "VAL"), ("Training", "Dev")])
def test_splits_have_any_case_of_letters(train, test, tmp_path):
    prepare(tmp_path, splits={train: [0, 1, 2] * 3, test: [0, 1]})
    dataset = open_dataset("tfds:pictures", data_dir=tmp_path)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (9, 2)


WRONG_SPLITS = {
    "trian": "split 'trian'",
    "train[:80": "split 'train[:80'",
    "train[a:]": "split 'train[a:]'",
    "": "split ''",
    "train+": "split 'train+'",
    "train[:50%][50%:]": "split 'train[:50%][50%:]' has two slices in a row",
    "train[:50%] [50%:]": "has two slices in a row, and may have one, such as train[:80%]",
}


@pytest.mark.parametrize("split", WRONG_SPLITS)
@pytest.mark.parametrize("option", ["train_split", "test_split"])
def test_a_split_that_is_none_is_named(split, option, made):
    with pytest.raises(ValueError, match=r"splits are train, test$") as error:
        open_dataset("tfds:plain", data_dir=made / "array_record", **{option: split})
    assert WRONG_SPLITS[split] in str(error.value)
    assert "\n" not in str(error.value)


UNFIT = {
    "an age": ({"label": tfds.features.Scalar(np.int64), "splits": {"train": list(range(9)), "test": [1]}}, "9 values"),
    "a new label": (
        {"label": tfds.features.Scalar(np.int64), "splits": {"train": [0, 1] * 3, "test": [5]}},
        "the label '5' is in the test split, and not in the train split",
    ),
    "a new text": (
        {"label": tfds.features.Text(), "splits": {"train": ["x", "y"] * 3, "test": ["z"]}},
        "the label 'z' is in the test split, and not in the train split",
    ),
    "a floating label": (
        {"label": tfds.features.Scalar(np.float32), "splits": {"train": [0.5] * 3, "test": [0.5]}},
        "'label' is a Scalar",
    ),
    "a box for a label": (
        {"label": tfds.features.Tensor(shape=(2,), dtype=np.int64), "splits": {"train": [[0, 1]], "test": [[0, 1]]}},
        "'label' is a Tensor of int64 (2,), a list for each example; if it is one-hot, store the number of the class",
    ),
    "one-hot": (
        {
            "label": tfds.features.Tensor(shape=(3,), dtype=np.float32),
            "splits": {"train": [[0, 0, 1]], "test": [[0, 0, 1]]},
        },
        "'label' is a Tensor of float32 (3,), a list for each example; if it is one-hot, store the number of the class",
    ),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_labels_that_are_no_classes_are_refused(unfit, tmp_path):
    changes, said = UNFIT[unfit]
    prepare(tmp_path, **changes)
    with pytest.raises(ValueError) as error:
        open_dataset("tfds:pictures", data_dir=tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


FIT = {
    "booleans": ({"label": tfds.features.Scalar(np.bool_)}, {"train": [True, False] * 3, "test": [True]}, ("0", "1")),
    "minus one and one": ({"label": tfds.features.Scalar(np.int64)}, {"train": [-1, 1] * 3, "test": [-1]}, ("-1", "1")),
    "texts in any letters": ({"label": tfds.features.Text()}, {"train": ["é", "b"] * 3, "test": ["é"]}, ("b", "é")),
    "keys of other names": ({"keys": ("picture", "kind")}, {"train": [0, 1, 2], "test": [0]}, ("cat", "dog", "eel")),
}


@pytest.mark.parametrize("fit", FIT)
def test_labels_that_are_classes_by_themselves(fit, tmp_path):
    changes, splits, classes = FIT[fit]
    prepare(tmp_path, splits=splits, **changes)
    dataset = open_dataset("tfds:pictures", data_dir=tmp_path)
    assert dataset.class_names == classes
    assert sorted(dataset.train.labels.tolist()) == sorted(
        classes.index(str(label)) if str(label) in classes else int(label) for label in splits["train"]
    )


def cut(path):
    os.truncate(path, path.stat().st_size - 5)


def cut_in_a_header(path):
    with path.open("rb") as file:
        [length] = struct.unpack("<Q", file.read(8))
    os.truncate(path, 16 + length + 7)


def spoil_a_length(path):
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def write_noise(path):
    path.write_bytes(bytes(range(256)) * 9)


DAMAGES = {
    "cut short": (cut, "plain-train.tfrecord-00000-of-00001' has 11 whole records of 12; prepare the data set anew"),
    "cut in a header": (cut_in_a_header, "has 1 whole records of 12"),
    "emptied": (lambda path: os.truncate(path, 0), "has 0 whole records of 12"),
    "a length": (spoil_a_length, "is no TFRecord, or damaged, at byte 0"),
    "noise": (write_noise, "is no TFRecord, or damaged, at byte 0"),
    "removed": (Path.unlink, "No such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tfrecords_get_one_line(damage, made, tmp_path):
    change, said = DAMAGES[damage]
    folder = tmp_path / "plain" / "1.0.0"
    folder.mkdir(parents=True)
    for path in (made / "tfrecord" / "plain" / "1.0.0").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder / "plain-train.tfrecord-00000-of-00001")
    with pytest.raises(ValueError) as error:
        open_dataset("tfds:plain", data_dir=tmp_path)
    assert said in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_check_sums_are_those_of_the_format():
    """CRC-32C of "123456789" is E3069283, by RFC 3720; TFRecord rotates it by 15 bits and adds a constant."""
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_formats_that_are_not_read_say_what_to_do(made, tmp_path):
    with pytest.raises(
        ValueError, match=r"riegeli are not read; .* download_and_prepare\(file_format='array_record'\)"
    ):
        open_records("riegeli", [])
