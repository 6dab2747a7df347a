"""Layouts of folders of images, as people and published data sets have them: the parts that are found, or the tree."""

import numpy as np
import pytest
from PIL import Image

from common_flax.errors import InLines
from training_flax import open_dataset, train_command
from training_flax.files.layout import TREE


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(path.relative_to(path.parents[2]))))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)).save(path)


def make(root, *folders):
    """Writes images: "train/cat 5" are five of them in that folder."""
    for each in folders:
        folder, _, count = each.rpartition(" ")
        for index in range(int(count)):
            save(root / folder / f"{index}.png")


HELD_OUT, THERE = "held out", "there"
# What is there; then the numbers of train, validation and test images, and where the test part comes from.
LAYOUTS = {
    "classes": (["cat 5", "dog 10"], (12, 0, 3), HELD_OUT),
    "classes of other letters": (["größe 5", "猫 5", "a b 5"], (12, 0, 3), HELD_OUT),
    "classes with folders below": (["cat/2023 5", "cat/2024 5", "dog 5", "dog/old 5"], (16, 0, 4), HELD_OUT),
    "classes and a system's folder": (["cat 5", "dog 5", "@eaDir 3"], (8, 0, 2), HELD_OUT),
    "train alone": (["train/cat 5", "train/dog 5"], (8, 0, 2), HELD_OUT),
    "train and test": (["train/cat 5", "train/dog 5", "test/cat 2", "test/dog 3"], (10, 0, 5), THERE),
    "train and val": (["train/cat 5", "train/dog 5", "val/cat 2", "val/dog 3"], (10, 0, 5), THERE),
    "train, val and test": (
        ["train/cat 5", "train/dog 5", "val/cat 2", "val/dog 3", "test/cat 1", "test/dog 1"],
        (10, 5, 2),
        THERE,
    ),
    "Training, Testing and Validation": (
        ["Training/a 5", "Training/b 5", "Validation/a 2", "Validation/b 3", "Testing/a 1", "Testing/b 1"],
        (10, 5, 2),
        THERE,
    ),
    "a val part that lacks a class": (
        ["train/cat 5", "train/dog 5", "val/cat 2", "test/cat 1", "test/dog 1"],
        (10, 0, 2),
        THERE,
    ),
    "Kaggle: test without labels": (["train/cat 5", "train/dog 5", "test 4"], (8, 0, 2), HELD_OUT),
    "Kaggle: test in a folder": (["train/cat 5", "train/dog 5", "test/unknown 4"], (8, 0, 2), HELD_OUT),
    "Kaggle: val with labels": (["train/cat 5", "train/dog 5", "val/cat 1", "val/dog 1", "test 4"], (10, 0, 2), THERE),
    "Kaggle: empty test": (["train/cat 5", "train/dog 5"], (8, 0, 2), HELD_OUT),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_are_found_or_held_out(layout, tmp_path):
    folders, expected, held_out = LAYOUTS[layout]
    make(tmp_path, *folders)
    if "empty" in layout:
        (tmp_path / "test").mkdir()
    dataset = open_dataset(f"folder:{tmp_path}")
    validation = 0 if dataset.validation is None else len(dataset.validation.labels)
    assert (len(dataset.train.labels), validation, len(dataset.test.labels)) == expected
    drawn = [note for note in dataset.notes if note.startswith("split 80/20, seed 0: ")]
    assert len(drawn) == (held_out is HELD_OUT)
    assert bool(dataset.drawn) == (held_out is HELD_OUT)


def test_a_validation_part_is_named_or_left_out(tmp_path):
    for count, part in enumerate(("train", "val", "test", "extra"), 1):
        make(tmp_path, f"{part}/cat {count}", f"{part}/dog {count}")

    def counts(**options):
        dataset = open_dataset(f"folder:{tmp_path}", **options)
        return [0 if part is None else len(part.labels) for part in (dataset.train, dataset.validation, dataset.test)]

    assert counts() == [2, 4, 6]
    assert counts(validation_split="none") == [2, 0, 6]
    assert counts(validation_split="extra") == [2, 8, 6]
    assert counts(test_split="val") == [2, 0, 4]
    assert counts(test_split="val", validation_split="test") == [2, 6, 4]
    assert counts(train_split="val") == [4, 0, 6]
    with pytest.raises(ValueError, match=r"absent': No such file"):
        counts(validation_split="absent")
    make(tmp_path, "extra/eel 1")
    with pytest.raises(ValueError, match=r"classes must be the same in 'train' and 'extra'; in one alone: 'eel'$"):
        counts(validation_split="extra")


def linked_class(root):
    make(root, "cat 3", "dog 2")
    (root / "eel").symlink_to(root / "cat")


LINKS = {
    "a class that is a link to another": (linked_class, "are one folder, and cannot be two classes"),
    "a broken link": (lambda root: (make(root, "cat 3", "dog 2"), (root / "eel").symlink_to("x")), "No such file"),
    "a class without images": (lambda root: (make(root, "cat 3", "dog 2"), (root / "eel").mkdir()), "has no image"),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_and_empty_folders_are_what_they_are_in_parts(case, tmp_path):
    spoil, expected = LINKS[case]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=expected):
        open_dataset(f"folder:{tmp_path}")


def test_links_within_and_between_classes(tmp_path):
    make(tmp_path / "data", "cat 4", "dog 4")
    save(tmp_path / "elsewhere" / "more" / "0.png")
    (tmp_path / "data" / "dog" / "linked").symlink_to(tmp_path / "elsewhere")  # followed
    (tmp_path / "data" / "cat" / "up").symlink_to(tmp_path / "data")  # passed over
    dataset = open_dataset(f"folder:{tmp_path / 'data'}")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 9
    assert dataset.passed_over == (str(tmp_path / "data" / "cat" / "up"),)


def test_parts_of_unusual_names_are_asked_about(tmp_path):
    make(tmp_path, "tr/cat 2", "tr/dog 2", "te/cat 2", "te/dog 2")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.class_names == ("te", "tr")
    assert dataset.notes[0] == (
        "the classes are 'te', 'tr', which all hold 'cat', 'dog'; if these are parts, name them: --train-split"
    )


# What is there, with files beside; then what the first line ends with.
NONE_OF_THEM = {
    "nothing": ([], [], "'{}' must have a folder for each of at least 2 classes; it has 0"),
    "images alone": ([". 3"], [], "it has 0, and 3 images beside"),
    "dogs and cats in one folder": (
        ["train 4"],
        [],
        "/train' must have a folder for each of at least 2 classes; it has 0",
    ),
    "one class": (["cat 3"], [], "it has 1"),
    "a folder around it": (["flowers/rose 2", "flowers/tulip 2"], [], "in 'flowers': --data folder:{}/flowers"),
    "a table": ([". 3"], ["labels.csv"], "in 'labels.csv': --data csv:{}/labels.csv"),
    "no train": (["test/cat 1", "test/dog 1"], [], "takes a folder of another name beside 'test'"),
    "folds and a test part": (["fold1/cat 1", "fold1/dog 1", "val/cat 1", "val/dog 1"], [], "beside 'val'"),
}


@pytest.mark.parametrize("case", NONE_OF_THEM)
def test_anything_else_draws_what_is_expected(case, tmp_path, capsys):
    folders, files, expected = NONE_OF_THEM[case]
    make(tmp_path, *folders)
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(InLines) as error:
        open_dataset(f"folder:{tmp_path}")
    assert expected.format(tmp_path) in error.value.first
    assert error.value.first.endswith(". Images are expected as one of:")
    assert error.value.rest == TREE
    assert train_command.main(["--arch", "resnet20", "--data", f"folder:{tmp_path}"]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown == [f"train.py: error: {error.value.first}", *TREE]
    assert all(len(line) <= 120 for line in TREE)
