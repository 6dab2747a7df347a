"""Options for data of which an image may have several classes: what they become, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from training_flax import Dataset, Split, TrainConfig, dataset_from_arrays, plan
from training_flax.config.several_classes import for_several_classes

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (32, 8, 8, 3), np.uint8)
LABELS = (RNG.random((32, 4)) < 0.4).astype(np.uint8)
SEVERAL = dataset_from_arrays((IMAGES, LABELS), (IMAGES[:16], LABELS[:16]), class_names=tuple("abcd"))
ONE = dataset_from_arrays((IMAGES, np.arange(32) % 4), (IMAGES[:16], np.arange(16) % 4))
TINY = TrainConfig("resnet20", width=2, batch_size=16, steps=2)


def planned(data=SEVERAL, **options):
    return plan(replace(TINY, **options), data=data)


@pytest.mark.parametrize("recipe", ["he2015-cifar", "quick-digits", "a3", "fine-tune"])
def test_the_loss_is_binary_whatever_the_recipe_says(recipe):
    config = planned(recipe=recipe).config
    assert (config.loss, config.label_smoothing) == ("binary", 0.0)
    assert planned(loss="binary", recipe=recipe).config == config


def test_other_data_keep_their_options():
    config = replace(TINY, label_smoothing=0.1)
    assert for_several_classes(config, config, ONE) is config
    assert planned(ONE).config.loss == "softmax"
    assert planned(ONE, loss="binary").config.loss == "binary"
    assert planned(ONE, recipe="quick-digits").config.label_smoothing == 0.1


def test_what_has_a_meaning_is_taken():
    job = planned(mixup=0.2, cutmix=1.0, class_weights="balanced", num_classes=4, ema=0.9, freeze=("conv1/*",))
    counts = LABELS.sum(0)
    np.testing.assert_allclose(job.class_weights, (32 - counts) / counts, rtol=1e-15)
    assert planned(class_weights=(1, 2, 3, 4)).class_weights == (1, 2, 3, 4)
    held = planned(validation_share=0.25).dataset.validation.labels
    assert np.abs(held.sum(0) - counts / 4).max() <= 1
    assert planned(validation_share=0.25, patience=2).best_by == "mean average precision"
    assert planned(ONE).best_by == "accuracy"


ABOUT = "is for data with one class an image, and one of arrays may have several"
WRONG = {
    "softmax": (dict(loss="softmax"), f"loss 'softmax' {ABOUT}: take 'binary', or none; given 'softmax'"),
    "label smoothing": (dict(label_smoothing=0.1), f"label_smoothing {ABOUT}; given 0.1"),
    "balanced sampling": (
        dict(sampling="balanced"),
        f"sampling 'balanced' {ABOUT}: class_weights 'balanced' weighs them; given 'balanced'",
    ),
    "other classes": (dict(num_classes=3), "num_classes must be the 4 of arrays; given 3"),
    "too few weights": (dict(class_weights=(1, 2)), "class_weights must be 4 numbers, one for each class; given 2"),
    "patience without a part": (dict(patience=2), "patience is for data with a validation part"),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=WRONG)
def test_wrong_options_end_in_one_line(options, said):
    with pytest.raises(ValueError) as error:
        planned(**options)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_class_without_images_cannot_be_balanced():
    nobody = (IMAGES, LABELS * np.array([1, 0, 1, 1], np.uint8))
    assert planned((nobody, nobody)).config.loss == "binary"
    with pytest.raises(ValueError, match="class_weights 'balanced' need images of each class; '1' has none"):
        planned((nobody, nobody), class_weights="balanced")


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_part_without_any_class_is_refused(part):
    empty = Split(IMAGES[:4], np.zeros((4, 4), np.uint8))
    data: Dataset = replace(SEVERAL, **{part: empty})
    with pytest.raises(ValueError, match=f"^the {part} part of arrays has no image with a class, so nothing can be"):
        planned(data)
