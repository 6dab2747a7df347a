"""Data sets at their limits: black images, one class, and labels that no class has."""

import numpy as np
import pytest
from PIL import Image

from training_flax.data.open import open_dataset
from training_flax.data.source import Source, Sources, as_dataset


def source(*labels):
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    return Source(np.array(labels, np.int32), lambda _: (4, 4), images.__getitem__)


@pytest.mark.parametrize("labels", [(0, 2), (-1, 0), (0, 2**31 - 1), ()])
def test_a_label_without_a_class_is_refused(labels):
    right = source(0, 1)
    for splits in ((source(*labels), right), (right, source(*labels))):
        with pytest.raises(ValueError, match="'odd': labels must be from 0 to 1; given"):
            as_dataset("odd", Sources(*splits, ("a", "b")), None, 4)


def test_one_class_is_a_data_set():
    dataset = open_dataset("fake:4x4x3:1:8")
    assert dataset.class_names == ("0",)
    assert not dataset.train.labels.any()


def test_black_images_have_a_deviation_to_divide_by(tmp_path):
    for part in ("train", "test"):
        for name in ("a$b$c", "\x1b[31m\nred"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / part / name / "0.png")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.mean == (0, 0, 0)
    assert dataset.std == (1, 1, 1)
    assert dataset.class_names == ("\x1b[31m\nred", "a$b$c")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fake:100000x100000x3:10", "an image of fake data must have at most 16,777,216 pixels; given 100000×100000"),
        ("fake:8x8x3:10000000", "at most 1,000,000 classes"),
        ("fake:8x8x3:10:9999999999999999999999", "and 50,000,000 images"),
    ],
)
def test_sizes_beyond_all_data_sets_are_refused(name, said):
    with pytest.raises(ValueError, match=said):
        open_dataset(name)


def test_an_image_size_beyond_memory_is_refused():
    with pytest.raises(ValueError, match="image_size must have at most 16,777,216 pixels; given 100000×100000"):
        open_dataset("fake:8x8x3:10", image_size=100_000)
