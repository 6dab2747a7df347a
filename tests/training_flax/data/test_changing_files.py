"""Folders of images that change after they were listed: within a run, and between its stop and its resumption."""

import os
from pathlib import Path

import numpy as np
import pytest
from older_runs import write_older_config
from PIL import Image

from training_flax import TrainConfig, open_dataset, plan
from training_flax.config.run_config import numbers_options, read_config
from training_flax.data import folder as folder_module
from training_flax.data.source import sum_of_files
from training_flax.run.folder import write_config

CLASSES = ("a", "b")


def picture(seed, height=9, width=9):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def images(root, widths):
    """Writes four train images and one test image of each class; widths alternate between those given."""
    for label, name in enumerate(CLASSES):
        for part, count in (("train", 4), ("test", 1)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                width = widths[(index + label) % len(widths)]
                picture(100 * label + index, width=width).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture(params=[(9,), (9, 12)], ids=["in memory", "streamed"])
def data(request, tmp_path):
    return images(tmp_path / "data", request.param)


@pytest.fixture
def streamed(tmp_path):
    return images(tmp_path / "data", (9, 12))


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])


def replace_by_text(path):
    path.write_text("hello")


def replace_by_picture(path):
    picture(7, 30, 40).save(path)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def rename_class(path):
    path.parent.rename(path.parent.with_name("other"))


IN_A_RUN = {
    cut: "truncated|broken",
    replace_by_text: "not an image",
    replace_by_picture: "has changed since it was listed",
    Path.unlink: "No such file",
    rename_class: "No such file",
    replace_by_folder: "Is a directory",
    replace_by_pipe: "a pipe, not a regular file",
}


@pytest.mark.parametrize("change", IN_A_RUN, ids=lambda change: change.__name__)
def test_an_image_that_changes_after_it_was_listed_is_named(change, streamed):
    split = open_dataset(f"folder:{streamed}").train
    before, path = split.read(1), streamed / "train" / "a" / "1.png"
    kept = path.read_bytes()
    change(path)
    with pytest.raises(ValueError, match=IN_A_RUN[change]) as error:
        split.read(1)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    if change in (cut, replace_by_text, replace_by_picture, Path.unlink):
        path.write_bytes(kept)
        np.testing.assert_array_equal(split.read(1), before)


def add(root):
    picture(7).save(root / "train" / "b" / "9.png")


def add_and_remove(root):
    add(root)
    (root / "train" / "b" / "0.png").unlink()


def rename(root):
    (root / "train" / "a" / "0.png").rename(root / "train" / "a" / "00.png")


def move_to_another_class(root):
    (root / "train" / "a" / "3.png").rename(root / "train" / "b" / "a3.png")
    (root / "train" / "b" / "3.png").rename(root / "train" / "a" / "b3.png")


def add_to_test(root):
    picture(7).save(root / "test" / "b" / "9.png")


BETWEEN_RUNS = {
    add: "train_examples (8 there, 9 now), train_files",
    add_and_remove: "train_files",
    rename: "train_files",
    move_to_another_class: "train_files",
    lambda root: (root / "train" / "b" / "3.png").unlink(): "train_examples (8 there, 7 now)",
    lambda root: replace_by_picture(root / "train" / "b" / "3.png"): "normalisation",
    add_to_test: "test_examples (2 there, 3 now), test_files",
    lambda root: [(root / part / "b").rename(root / part / "c") for part in ("train", "test")]: "class_names",
}


def config(root, out):
    return TrainConfig(arch="resnet20", width=4, data=f"folder:{root}", image_size=9, batch_size=4, steps=2, out=out)


@pytest.mark.parametrize("change", BETWEEN_RUNS, ids=list(BETWEEN_RUNS.values()))
def test_a_folder_that_changed_between_a_stop_and_the_resumption_is_refused(change, data, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    job = plan(config(data, run))
    write_config(run, job.config, job.dataset, job.mark)
    assert plan(config(data, run)).mark == job.mark
    change(data)
    with pytest.raises(ValueError, match="holds another run, which differs in") as error:
        plan(config(data, run))
    assert BETWEEN_RUNS[change] in str(error.value)


@pytest.mark.parametrize("unknown", [("labels",), ("labels", "bytes"), ("labels", "bytes", "files")])
def test_a_run_of_a_version_that_knew_no_files_or_labels_goes_on(unknown, data, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    job = plan(config(data, run))
    values = numbers_options(job.config, job.dataset)
    lacking = {f"{part}_{what}" for part in ("train", "test") for what in unknown}
    assert values.keys() >= lacking
    older = plan(config(data, None)).dataset
    for name in lacking:
        object.__setattr__(older, name, None)
    write_older_config(run, job.config, older)
    assert not lacking & read_config(run).keys()
    assert plan(config(data, run)).run == run
    assert plan(config(data, run)).mark == job.mark or "files" in unknown


def test_data_without_files_have_no_sum():
    assert "train_files" not in numbers_options(TrainConfig(arch="resnet20"), open_dataset("fake:4x4x3:2:8"))


def test_a_sum_tells_names_apart():
    listings = (["a"], ["b"], ["ab"], ["a", "b"], ["b", "a"], [])
    sums = {sum_of_files(names) for names in listings}
    assert len(sums) == len(listings)
    assert sum_of_files(["a\udce9"]) not in sums


def test_sizes_of_very_many_images_are_not_asked_for(streamed, monkeypatch):
    monkeypatch.setattr(folder_module, "HEADER_LIMIT", 1)
    split = open_dataset(f"folder:{streamed}").train
    replace_by_picture(streamed / "train" / "a" / "1.png")
    assert split.read(1).shape == (30, 40, 3)
