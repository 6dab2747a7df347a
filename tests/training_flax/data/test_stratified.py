"""Parts of images with several classes: each class has its share, and is in both parts where that can be had."""

import numpy as np
import pytest

from training_flax.data.held_out import Draw, validation_of_labels, with_parts
from training_flax.data.source import Sources, of_files
from training_flax.data.stratified import draw_several, held_out_of


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_images_of_one_class_each_are_drawn_as_those_of_a_column_of_labels(share):
    rng = np.random.default_rng(0)
    labels, order = rng.integers(0, 5, 100), rng.permutation(100)
    part = draw_several(np.eye(5, dtype=np.uint8)[labels], order, share)
    for label in range(5):
        own = [image for image in order if labels[image] == label]
        expected = own[: held_out_of(len(own), share)]
        assert sorted(expected) == np.flatnonzero(part & (labels == label)).tolist()


@pytest.mark.parametrize("seed", range(100))
def test_a_class_of_two_images_is_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    examples, classes = int(rng.integers(4, 80)), int(rng.integers(2, 12))
    labels = (rng.random((examples, classes)) < rng.uniform(0.02, 0.6, classes)).astype(np.uint8)
    part = draw_several(labels, rng.permutation(examples), 0.2)
    counts, held = labels.sum(0), labels[part].sum(0)
    assert ((held >= 1) & (held < counts))[counts >= 2].all()
    assert not held[counts == 1].any()


def test_rare_and_frequent_classes_have_their_shares():
    rng = np.random.default_rng(0)
    # Rates of the classes of chest X-rays, from 0.2 to 18 %.
    rates = np.array([10, 2, 12, 18, 5, 6, 1, 5, 4, 2, 2, 1, 3, 0.2]) / 100
    labels = (rng.random((20_000, 14)) < rates).astype(np.uint8)
    part = draw_several(labels, rng.permutation(20_000), 0.2)
    np.testing.assert_allclose(labels[part].sum(0), 0.2 * labels.sum(0), atol=3, rtol=0.01)
    # So have images without any class, and those of each pair of classes, as far as they are many.
    without = ~labels.any(1)
    assert abs((part & without).sum() - 0.2 * without.sum()) <= 0.5
    pairs, held = labels.T.astype(int) @ labels, labels[part].T.astype(int) @ labels[part]
    np.testing.assert_allclose(held[pairs > 200], 0.2 * pairs[pairs > 200], rtol=0.1)
    assert part.sum() == pytest.approx(4_000, rel=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_few_classes_have_their_shares_within_an_image(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((96, 3)) < 0.5).astype(np.uint8)
    part = draw_several(labels, rng.permutation(96), 0.2)
    assert np.abs(labels[part].sum(0) - 0.2 * labels.sum(0)).max() <= 1
    # Each of the eight sets of classes may be rounded.
    assert abs(part.sum() - 0.2 * 96) <= 8 / 2


def test_one_image_alone_stays_and_the_only_two_of_a_class_are_parted():
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]], np.uint8)
    for seed in range(20):
        part = draw_several(labels, np.random.default_rng(seed).permutation(5), 0.5)
        assert not part[0]
        assert part[1]
        assert part[2] != part[3]


def sources(labels):
    names = [f"{index}.png" for index in range(len(labels))]
    classes = tuple("abcdefgh"[: labels.shape[1]])
    return Sources(of_files(names, names, labels), None, classes)


def test_the_draw_follows_from_seed_and_names_alone():
    rng = np.random.default_rng(1)
    labels = (rng.random((60, 4)) < 0.3).astype(np.uint8)
    first = with_parts("x", sources(labels), Draw(seed=3, validation_share=0.25))
    assert [len(part.labels) for part in (first.train, first.validation, first.test)] == [35, 12, 13]
    places = {name: int(name[:-4]) for part in first.drawn.values() for name in part}
    for part in (first.train, first.validation, first.test):
        np.testing.assert_array_equal(part.labels, labels[[places[name] for name in part.names]])
    assert first.drawn == with_parts("x", sources(labels), Draw(seed=3, validation_share=0.25)).drawn
    assert first.drawn["test"] == with_parts("x", sources(labels), Draw(seed=3)).drawn["test"]
    assert first.drawn != with_parts("x", sources(labels), Draw(seed=4, validation_share=0.25)).drawn
    # These names were drawn when the rule was written; another rule would move images from train to test.
    drawn = with_parts("x", sources(np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 1]], np.uint8)), Draw(0.3))
    assert drawn.drawn["test"] == ("0.png", "2.png")


def test_classes_that_a_part_lacks_are_told():
    labels = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 1, 0]], np.uint8)
    stay, held_out, notes = validation_of_labels(labels, 0.25, 0, ("rare", "often", "once"))
    assert notes[1:] == ["2 classes have no validation image: 'rare', 'once'"]
    assert len(stay) + len(held_out) == 4
