"""How much an image resembles the training images."""

import msgspec
import numpy as np
import pytest

from training_flax.data.dataset import Split, StreamedSplit
from training_flax.inference.likeness import likeness_of, named, read_likeness, summed_up, unlike
from training_flax.inference.transform import View


def pictures(count=40, seed=0, low=60, high=120, shape=(16, 16, 3)):
    numbers = np.random.default_rng(seed)
    return numbers.integers(low, high, (count, *shape)).astype(np.uint8)


def known(images):
    return likeness_of(Split(images, np.zeros(len(images), np.int32)), View(images.shape[1:3], images.shape[-1]))


def test_measures_are_those_of_the_images():
    images = pictures(3, shape=(8, 8, 1))
    luma = images[..., 0] / 255
    measured = known(images)
    assert measured.brightness == (luma.mean((1, 2)).min(), luma.mean((1, 2)).max())
    assert measured.contrast == (luma.std((1, 2)).min(), luma.std((1, 2)).max())
    np.testing.assert_array_equal(measured.cells, luma.mean(0).ravel())


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 1), (9, 17, 3), (32, 32, 3)])
def test_training_images_of_any_size_are_like_themselves(shape):
    images = pictures(shape=shape)
    assert unlike(images, known(images)) == [None] * len(images)


STRANGE = {
    "lighter": (lambda images: images + 120, "brightness"),
    "darker": (lambda images: images // 4, "brightness"),
    "flat": (lambda images: np.full_like(images, 90), "contrast"),
    "half black": (lambda images: np.where(np.arange(16)[:, None, None] < 8, 0, images + 90), "distance"),
}


@pytest.mark.parametrize(("change", "what"), STRANGE.values(), ids=STRANGE)
def test_others_are_told_with_numbers(change, what):
    images = pictures()
    [reason] = unlike(change(images[:1].astype(int)).astype(np.uint8), known(images))
    assert reason is not None and what in reason and ", theirs " in reason


def test_a_stream_is_measured_as_a_test_shows_it():
    images = pictures(300, shape=(24, 24, 3))
    split = StreamedSplit(np.zeros(300, np.int32), (16, 16, 3), images.__getitem__)
    view = View((16, 16), 3, crop=1.0)
    measured = likeness_of(split, view)
    sampled = np.unique(np.linspace(0, 299, 256).astype(int))
    whole = np.stack([view.fit(images[index]) for index in sampled])
    assert measured == known(whole)


def test_the_card_keeps_them():
    measured = known(pictures())
    assert read_likeness(msgspec.to_builtins(measured)) == measured


BROKEN = [("brightness", [0.1]), ("contrast", "high"), ("cells", [0.5] * 63), ("distance", -1), ("spread", [2.0] * 64)]


@pytest.mark.parametrize(("field", "value"), BROKEN)
def test_a_broken_entry_is_an_error(field, value):
    with pytest.raises(ValueError, match=field):
        read_likeness(msgspec.to_builtins(known(pictures())) | {field: value})


def test_lines_name_three_and_count_the_others():
    strange = named([f"{number}.png" for number in range(6)], ["dark", None, "dark", "light", "light", "light"])
    assert summed_up(strange) == [
        "'0.png' is unlike the training images: dark",
        "'2.png' is unlike the training images: dark",
        "'3.png' is unlike the training images: light",
        "2 more images are unlike the training images",
    ]
    assert summed_up([]) == []
