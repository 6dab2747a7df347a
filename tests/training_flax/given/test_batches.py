"""Iterables of batches: kinds that are taken, epochs, the test part, and errors of one line."""

import jax.numpy as jnp
import numpy as np
import pytest

from training_flax import Batches, TrainConfig, normalise
from training_flax.data.dataset import BatchedSplit, Split
from training_flax.data.loader import UnreadableImage
from training_flax.given import batches as module
from training_flax.given.data import open_given
from training_flax.learn.evaluation import evaluate_part
from training_flax.learn.state import EvalResult
from training_flax.runtime.devices import Devices
from training_flax.runtime.users_code import is_users

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (22, 4, 4, 3), np.uint8), (np.arange(22) % 3).astype(np.int32)
TEST = RNG.integers(0, 256, (7, 4, 4, 3), np.uint8), (np.arange(7) % 3).astype(np.int32)


def cut(size=8, images=IMAGES, labels=LABELS, form=tuple):
    parts = [(images[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size)]
    return [form(part) for part in parts]


def right(labels):
    """The result of a network that is right and certain."""
    zeros = jnp.zeros(len(labels))
    return EvalResult(zeros, jnp.asarray(labels), zeros + 1, zeros.astype(jnp.int32))


def as_dict(part):
    return {"image": jnp.asarray(part[0]), "label": jnp.asarray(part[1]), "id": 0}


class Loader:
    """Gives batches in one buffer that is filled anew each time, as fast loaders do."""

    def __init__(self, batches):
        self.batches, self.begun = batches, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.begun += 1
        buffer = np.empty_like(self.batches[0][0])
        for images, labels in self.batches:
            buffer[: len(labels)] = images
            yield buffer[: len(labels)], labels
        buffer[:] = 0


KINDS = {
    "a list of tuples": cut(),
    "a list of lists": cut(form=list),
    "dicts of JAX": cut(form=as_dict),
    "a loader that fills one buffer": Loader(cut()),
}


@pytest.mark.parametrize("train", KINDS.values(), ids=KINDS)
def test_each_kind_gives_full_batches_anew_for_each_epoch(train):
    data, size = module.from_batches(Batches(train, TEST))
    assert size == 8
    assert (data.train.examples, data.image_shape, data.class_names) == (24, (4, 4, 3), ("0", "1", "2"))
    filled = np.r_[np.arange(22), 8, 9]  # the last batch gets two images of the one before
    for _ in range(2):
        images, labels = (np.concatenate(parts) for parts in zip(*data.train.batches(), strict=True))
        np.testing.assert_array_equal(images, IMAGES[filled])
        np.testing.assert_array_equal(labels, LABELS[filled])


def test_a_function_of_an_endless_generator_with_its_length():
    begun = []

    def generate():
        begun.append(True)
        while True:
            yield from cut(images=IMAGES[:16], labels=LABELS[:16])

    data, _ = module.from_batches(Batches(generate, TEST, length=5))
    assert data.train.examples == 40
    seen = [images for _ in range(2) for images, _ in data.train.batches()]
    assert (len(seen), len(begun)) == (10, 3)
    np.testing.assert_array_equal(seen[4], IMAGES[:8])


def test_what_is_after_the_length_is_left():
    data, _ = module.from_batches(Batches(cut(), TEST, length=2))
    images = np.concatenate([images for images, _ in data.train.batches()])
    np.testing.assert_array_equal(images, IMAGES[:16])


def test_moments_are_those_of_the_first_images(monkeypatch):
    monkeypatch.setattr(module, "MOMENTS_LIMIT", 16)
    data, _ = module.from_batches(Batches(cut(), TEST))
    np.testing.assert_allclose(data.mean, (IMAGES[:16] / 255).mean((0, 1, 2)), rtol=1e-12)


def test_normalised_batches_are_seen_as_they_are():
    values = RNG.normal(size=(16, 4, 4, 3)).astype(np.float32)
    train = cut(images=values, labels=LABELS[:16])
    with pytest.raises(ValueError, match="train batch 1: images in floating point must be pixels from 0 to 1"):
        open_given((train, TEST), TrainConfig("resnet20"))
    data = open_given((train, TEST), TrainConfig("resnet20", mean=(0.0,) * 3, std=(1.0,) * 3)).dataset
    assert not data.pixels
    images, _ = next(data.train.batches())
    np.testing.assert_allclose(normalise(images, data.mean, data.std), values[:8], rtol=2**-22, atol=1e-30)


def test_a_test_part_is_kept_in_memory_or_read_again(monkeypatch):
    parts = cut(3, *TEST, form=as_dict)
    kept, _ = module.from_batches(Batches(cut(), parts))
    assert isinstance(kept.test, Split)
    np.testing.assert_array_equal(kept.test.images, TEST[0])
    monkeypatch.setattr(module, "MEMORY_LIMIT", 200)
    read, _ = module.from_batches(Batches(cut(), parts))
    assert isinstance(read.test, BatchedSplit)
    np.testing.assert_array_equal(read.test.labels, TEST[1])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 20])
@pytest.mark.parametrize("given", [1, 3, 7, 10])
def test_a_test_part_that_is_read_again_counts_every_image_once(given, size, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_LIMIT", 0)
    split = module.from_batches(Batches(cut(), cut(given, *TEST)))[0].test
    seen = []

    def step(batch):
        assert len(batch.labels) == size
        seen.extend(np.asarray(batch.images))
        return right(batch.labels)

    evaluation = evaluate_part(step, split, size, Devices())
    assert evaluation.accuracy == 1
    np.testing.assert_array_equal(evaluation.predictions, TEST[1])
    np.testing.assert_array_equal(seen[:7], TEST[0])
    assert all((image == TEST[0][-1]).all() for image in seen[7:])


def test_a_test_part_in_another_order_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "MEMORY_LIMIT", 0)
    order = iter([np.arange(7), np.arange(7)[::-1]])

    def shuffled():
        rows = next(order)
        return cut(3, TEST[0][rows], TEST[1][rows])

    split = module.from_batches(Batches(cut(), lambda: iter(shuffled())))[0].test
    step = lambda batch: right(batch.labels)  # noqa: E731
    with pytest.raises(UnreadableImage, match="another order than at first; do not shuffle them"):
        evaluate_part(step, split, 4, Devices())


LATER = {
    "another shape": ((IMAGES[:8, :3], LABELS[:8]), "images must be as those of the first batch"),
    "another type": ((IMAGES[:8] / 255, LABELS[:8]), "float32, not"),
    "a label beyond": ((IMAGES[:8], LABELS[:8] + 2), "label 4 is beyond the 3 classes; give num_classes"),
    "more images": ((IMAGES[:9], LABELS[:9]), "all batches but the last must have 8 images; given 9"),
    "no batch": ("x", r"it must be \(images, labels\) or .*; given 'str'"),
    "three entries": ((IMAGES[:8], LABELS[:8], 0), "given 3 entries"),
    "other keys": ({"images": 0, "label": 0}, "must have 'image' and 'label'; given 'images', 'label'"),
}


@pytest.mark.parametrize(("batch", "said"), LATER.values(), ids=LATER)
def test_a_later_batch_of_another_form_ends_in_one_line(batch, said):
    train = [*cut()[:2], batch]
    data, _ = module.from_batches(Batches(train, TEST), moments=((0.5,) * 3, (0.5,) * 3))
    batches = data.train.batches()
    assert [len(next(batches)[1]) for _ in range(2)] == [8, 8]
    with pytest.raises(UnreadableImage, match=f"train batch 3: .*{said}") as error:
        next(batches)
    assert "\n" not in str(error.value)


def test_a_short_batch_within_an_epoch_is_an_error():
    data, _ = module.from_batches(Batches([*cut()[::-1][1:], cut()[-1], cut()[0]], TEST))
    with pytest.raises(UnreadableImage, match="train batch 4: all batches but the last must have 8 images"):
        list(data.train.batches())


WRONG = {
    "an iterator": (Batches(iter(cut()), TEST), "'list_iterator' is an iterator, read once only"),
    "a generator": (Batches((batch for batch in cut()), TEST), "'generator' is an iterator"),
    "no length": (Batches(lambda: iter(cut()), TEST), "'function' has no len.*length=…"),
    "a length of 0": (Batches(cut(), TEST, length=0), "length must be a positive integer"),
    "no batches": (Batches([], TEST), "one or more; given none"),
    "no images": (Batches(cut(images=IMAGES[:0], labels=LABELS[:0]) or [(IMAGES[:0], LABELS[:0])], TEST), "the first"),
    "no iterable": (Batches(7, TEST, length=1), "must be an iterable, or a function that returns one; given 7"),
    "no test images": (Batches(cut(), []), "test batches must have images; given none"),
    "test images of another shape": (Batches(cut(), (TEST[0][:, :3], TEST[1])), "one shape"),
    "test batches of another shape": (Batches(cut(), cut(3, TEST[0][:, :3], TEST[1])), "test batch 1: images must be"),
    "test iterator": (Batches(cut(), iter(cut())), "test batches must be read anew"),
    "too few names": (Batches(cut(), TEST, class_names=["a", "b"]), "for 2 classes; given 2"),
}


@pytest.mark.parametrize(("data", "said"), WRONG.values(), ids=WRONG)
def test_wrong_batches_end_in_one_line(data, said):
    with pytest.raises(ValueError, match=said) as error:
        open_given(data, TrainConfig("resnet20"))
    assert "\n" not in str(error.value)


def test_a_batch_size_is_that_of_the_batches():
    assert open_given((cut(), TEST), TrainConfig("resnet20")).batch_size == 8
    assert open_given((cut(), TEST), TrainConfig("resnet20", batch_size=8)).batch_size == 8
    with pytest.raises(ValueError, match="batch_size must be that of the batches given, 8; given 64"):
        open_given((cut(), TEST), TrainConfig("resnet20", batch_size=64))


def test_an_error_of_the_iterable_stays_what_it_is():
    error = KeyError("mine")

    def failing():
        yield from cut()[:1]
        raise error

    with pytest.raises(KeyError) as caught:
        module.from_batches(Batches(failing, TEST, length=3))
    assert caught.value is error
    assert is_users(error)
