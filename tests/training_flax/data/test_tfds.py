import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from training_flax import Split, open_dataset
from training_flax.data.dataset import StreamedSplit

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")

from pictures_tfds import pixels, prepare  # noqa: E402


def message(name, data_dir):
    """Returns the one line that reports what is wrong with a data set, within seconds, without network."""
    start = time.perf_counter()
    with pytest.raises(ValueError) as error:
        open_dataset(name, data_dir=data_dir)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(error.value)
    return str(error.value)


def images_of(split, count, shape=(4, 5, 3)):
    return sorted(pixels(split, index, shape).tobytes() for index in range(count))  # TFDS shuffles examples


def empty(file):
    os.truncate(file, 0)


def overwrite(file):
    with file.open("r+b") as records:
        records.write(bytes(file.stat().st_size))


@pytest.mark.parametrize("damage", [empty, overwrite])
def test_records_that_change_after_they_were_listed_are_named(damage, tmp_path, monkeypatch):
    monkeypatch.setattr("training_flax.data.tfds.MEMORY_LIMIT", 0)
    prepare(tmp_path, shape=staticmethod(lambda index: (4 + index, 5, 3)))
    dataset = open_dataset("tfds:pictures", data_dir=tmp_path)
    (file,) = tmp_path.rglob("*-train.array_record*")
    damage(file)
    with pytest.raises(ValueError, match=r"1\.0\.0: train 5'") as error:
        dataset.train.read(5)
    assert "\n" not in str(error.value)


def test_hashes_of_the_records_files_tell_versions_and_splits(tmp_path):
    sums = []
    for version in ("1.0.0", "1.0.1"):
        prepare(tmp_path / version, version=version)
        dataset = open_dataset("tfds:pictures", data_dir=tmp_path / version)
        sums += [dataset.train_files, dataset.test_files]
        again = open_dataset("tfds:pictures", data_dir=tmp_path / version)
        assert [again.train_files, again.test_files] == sums[-2:]
    assert len(set(sums)) == 4


@pytest.mark.slow
def test_a_prepared_data_set_is_read_without_tensorflow(tmp_path):
    prepare(tmp_path)
    code = f"""
import sys, training_flax
dataset = training_flax.open_dataset("tfds:pictures", data_dir={str(tmp_path)!r})
print(len(dataset.train.labels), "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "12 False\n"
    assert done.stderr == ""


def test_images_of_one_size_are_in_memory(tmp_path):
    prepare(tmp_path)
    dataset = open_dataset("tfds:pictures", data_dir=tmp_path)
    assert isinstance(dataset.train, Split)
    assert dataset.class_names == ("cat", "dog", "eel")
    assert dataset.train.labels.dtype == np.int32
    for part, split, count in ((dataset.train, "train", 12), (dataset.test, "test", 3)):
        assert part.images.shape == (count, 4, 5, 3)
        assert sorted(image.tobytes() for image in part.images) == images_of(split, count)
    # Labels stay with their images.
    index = next(i for i, image in enumerate(dataset.test.images) if image.tobytes() == pixels("test", 0).tobytes())
    assert dataset.test.labels[index] == 2


def test_images_of_many_sizes_are_streamed(tmp_path):
    prepare(tmp_path, shape=staticmethod(lambda index: (4 + index, 5, 3)))
    dataset = open_dataset("tfds:pictures:1.0.0", data_dir=tmp_path)
    assert isinstance(dataset.train, StreamedSplit)
    assert dataset.image_shape == (32, 32, 3)
    assert sorted(dataset.test.read(index).shape for index in range(3)) == [(4, 5, 3), (5, 5, 3), (6, 5, 3)]
    assert open_dataset("tfds:pictures", data_dir=tmp_path, image_size=9).image_shape == (9, 9, 3)


def test_records_that_do_not_fit_into_memory_are_read_when_asked_for(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setattr("training_flax.data.tfds.MEMORY_LIMIT", 200)
    monkeypatch.setattr("training_flax.data.source.MEMORY_LIMIT", 200)
    part = open_dataset("tfds:pictures", data_dir=tmp_path).train
    assert isinstance(part, StreamedSplit)
    assert sorted(part.read(index).tobytes() for index in range(12)) == images_of("train", 12)


def test_grey_images_keep_one_channel_but_for_streamed_ones(tmp_path):
    prepare(
        tmp_path,
        image=tfds.features.Image(shape=(None, None, 1)),
        shape=staticmethod(lambda index: (4, 4, 1)),
    )
    dataset = open_dataset("tfds:pictures", data_dir=tmp_path)
    assert dataset.image_shape == (4, 4, 1)
    assert sorted(image.tobytes() for image in dataset.train.images) == images_of("train", 12, (4, 4, 1))
    assert len(dataset.mean) == 1
    streamed = open_dataset("tfds:pictures", data_dir=tmp_path, image_size=8)
    np.testing.assert_array_equal(streamed.train.read(0), dataset.train.images[0].repeat(3, -1))


@pytest.mark.parametrize("test", [[], [-1, -1]])
def test_validation_stands_in_for_a_test_split_without_labels(test, tmp_path):
    splits = {"train": [0, 1, 2], "validation": [2] * 5} | ({"test": test} if test else {})
    prepare(tmp_path, splits=splits)
    np.testing.assert_array_equal(open_dataset("tfds:pictures", data_dir=tmp_path).test.labels, [2] * 5)


def test_the_newest_version_is_read_unless_one_is_named(tmp_path):
    for version, labels in (("1.9.0", [0]), ("1.10.0", [0, 1])):
        prepare(tmp_path, version=version, splits={"train": labels, "test": [1]})
    (tmp_path / "pictures" / "incomplete.AB12_2.0.0").mkdir()
    assert len(open_dataset("tfds:pictures", data_dir=tmp_path).train.labels) == 2
    assert len(open_dataset("tfds:pictures:1.9.0", data_dir=tmp_path).train.labels) == 1
    assert message("tfds:pictures:1.8.0", tmp_path) == (
        f"version 1.8.0 of pictures is not prepared in {str(tmp_path)!r}; there is 1.9.0, 1.10.0; "
        f"prepare it: python -m training_flax.prepare pictures --data-dir {tmp_path}"
    )


def test_the_usual_folder_is_looked_in(tmp_path, monkeypatch):
    prepare(tmp_path / "tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tensorflow_datasets"))
    assert len(open_dataset("tfds:pictures").train.labels) == 12
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_dataset("tfds:pictures").train.labels) == 12


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012", "no_such_data", "cifar10/config"])
def test_what_is_not_prepared_says_how_to_prepare_it(name, tmp_path):
    for data_dir in (tmp_path, tmp_path / "absent"):
        assert message(f"tfds:{name}", data_dir) == (
            f"data set {name} is not prepared in {str(data_dir)!r}; "
            f"prepare it: python -m training_flax.prepare {name} --data-dir {data_dir}"
        )


@pytest.mark.parametrize("name", ["", "../x", "a b", "cifar10:three", "a/b/c"])
def test_a_name_that_is_none_is_told(name, tmp_path):
    assert f"such as cifar10 or cifar10:3.0.2; given {name!r}" in message(f"tfds:{name}", tmp_path)


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN = {
    "riegeli": (
        lambda folder: change_json(folder / "dataset_info.json", fileFormat="riegeli"),
        "riegeli are not read; write them once more, in another folder, by the builder's download_and_prepare(",
    ),
    "tfrecord without its files": (
        lambda folder: change_json(folder / "dataset_info.json", fileFormat="tfrecord"),
        "No such file or directory",
    ),
    "parquet without its files": (
        lambda folder: change_json(folder / "dataset_info.json", fileFormat="parquet"),
        "No such file or directory",
    ),
    "no format": (lambda folder: (folder / "dataset_info.json").write_text("{}"), "Invalid version"),
    "no info": (lambda folder: (folder / "dataset_info.json").unlink(), "No such file or directory"),
    "broken info": (lambda folder: (folder / "dataset_info.json").write_text("{"), "line 1 column 2"),
    "no features": (
        lambda folder: (folder / "features.json").unlink(),
        "features.json is missing, without which nothing tells image and label",
    ),
    "records cut short": (lambda folder: halve(next(folder.glob("*-train.*"))), "is missing; prepare"),
    "test records cut short": (lambda folder: halve(next(folder.glob("*-test.*"))), "is missing; prepare"),
    "records of noise": (
        lambda folder: next(folder.glob("*-train.*")).write_bytes(bytes(range(256)) * 300),
        "Corrupted",
    ),
    "no records": (lambda folder: next(folder.glob("*-train.*")).unlink(), "train"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_folder_gets_one_line(broken, tmp_path):
    change, expected = BROKEN[broken]
    prepare(tmp_path)
    change(tmp_path / "pictures" / "1.0.0")
    assert message("tfds:pictures", tmp_path).startswith(repr(str(tmp_path / "pictures" / "1.0.0")) + ": ")
    assert expected in message("tfds:pictures", tmp_path)


UNFIT = {
    "no test": (
        {"splits": {"train": [0]}},
        "no split with labels to test on; it has train; hold out a fifth of it with --data 'tfds:pictures[:80%]'",
    ),
    "no train": ({"splits": {"test": [0]}}, "no split 'train'; it has test; name one with --train-split"),
    "unlabelled": ({"splits": {"train": [0, 1], "test": [-1, 0]}}, "no split with labels to test on; it has"),
    "all unlabelled": (
        {"splits": {"train": [0, 1], "test": [-1, -1]}},
        "no split with labels to test on; it has train, test",
    ),
    "unlabelled in training": (
        {"splits": {"train": [0, -1], "test": [1]}},
        "1 of 2 examples of split 'train' have no label",
    ),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_what_cannot_be_trained_on_is_refused(unfit, tmp_path):
    changes, expected = UNFIT[unfit]
    prepare(tmp_path, **changes)
    assert expected in message("tfds:pictures", tmp_path)


def test_without_tensorflow_datasets_one_line_says_what_to_install(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "a data set of TFDS needs tensorflow_datasets: pip install 'resnet-densenet-flax[tfds]'" in message(
        "tfds:pictures", tmp_path
    )
