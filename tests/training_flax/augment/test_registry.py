import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training_flax.augment.crops import random_flip
from training_flax.augment.registry import AUGMENTATIONS, augment_images, example_keys, parse_augmentations

FUSED_BY_MLIR = True
NAMES = [name for name in AUGMENTATIONS if name != "none"]


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape), jnp.uint8)


def keys_of(examples, epoch=0, seed=0):
    examples = jnp.asarray(examples)
    return example_keys(jax.random.key(seed), jnp.full_like(examples, epoch), examples)


def augment(names, keys, images):
    augmentations = parse_augmentations(names)
    return np.asarray(jax.jit(lambda keys, images: augment_images(augmentations, keys, images))(keys, images))


def test_keys_follow_from_seed_epoch_and_example_alone():
    keys = example_keys(jax.random.key(0), jnp.array([0, 0, 1, 3]), jnp.array([1, 2, 1, 7]))
    words = np.asarray(jax.random.key_data(keys))
    alone = example_keys(jax.random.key(0), jnp.array([3]), jnp.array([7]))
    np.testing.assert_array_equal(words[3:], jax.random.key_data(alone))
    # (epoch, example) and (example, epoch) give different keys too.
    many = [keys_of(range(20), epoch, seed) for epoch in range(20) for seed in range(2)]
    assert len(np.unique(np.concatenate([jax.random.key_data(k) for k in many]), axis=0)) == 800


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_changed_alike_in_any_batch_and_place(name):
    images = draw(5, 16, 16, 3)
    examples = np.array([4, 9, 2, 7, 5])
    whole = augment((name,), keys_of(examples), images)
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() <= 255
    np.testing.assert_array_equal(augment((name,), keys_of(examples[2:3]), images[2:3]), whole[2:3])
    order = np.array([3, 2, 0])
    np.testing.assert_array_equal(augment((name,), keys_of(examples[order]), images[order]), whole[order])


@pytest.mark.parametrize("name", NAMES)
def test_epochs_change_an_image_otherwise(name):
    images = jnp.tile(draw(1, 16, 16, 3), (8, 1, 1, 1))
    changed = [augment((name,), keys_of(range(8), epoch), images) for epoch in range(2)]
    assert (changed[0] != changed[1]).any()
    assert len(np.unique(changed[0].reshape(8, -1), axis=0)) > 1


@pytest.mark.parametrize(
    "name", ["affine:0", "pad-crop:0", "random-resized-crop:1", "colour:0", "color:0:0", "random-erasing:0"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_without_any_amount_images_stay(name, channels):
    images = draw(4, 12, 12, channels)
    # Interpolation rounds a few times at 24 bits of 255.
    np.testing.assert_allclose(augment((name,), keys_of(range(4)), images), images, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["affine:1", "pad-crop:4", "random-resized-crop:0.08", "colour:.4", "rand-augment:6", "random-erasing:.5"]
)
def test_without_a_number_the_usual_one_is_meant(name):
    images = draw(4, 16, 16, 3)
    usual = augment((name.partition(":")[0],), keys_of(range(4)), images)
    np.testing.assert_array_equal(augment((name,), keys_of(range(4)), images), usual)


def test_augmentations_follow_in_the_order_given_each_with_draws_of_its_own():
    images, keys = draw(40, 4, 4, 1), keys_of(range(40))
    once = augment_images((random_flip,), keys, images)
    twice = augment_images((random_flip, random_flip), keys, images)
    back = np.asarray(twice == images).all((1, 2, 3))
    # With the same key two flips would always cancel; with different keys half of them do.
    assert abs(back.sum() - 20) <= 4 * np.sqrt(10)
    np.testing.assert_array_equal(
        augment_images((lambda key, image: image + 1, lambda key, image: image * 2), keys, images),
        2 * (1 + images.astype(jnp.float32)),
    )
    assert (once != twice).any()


@pytest.mark.parametrize("names", [(), ("none",)])
def test_none_leaves_images_as_they_are(names):
    images = draw(3, 4, 4, 2)
    assert parse_augmentations(names) == ()
    unchanged = augment_images((), keys_of(range(3)), images)
    assert unchanged.dtype == jnp.float32
    np.testing.assert_array_equal(unchanged, images)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("pad-corp",), "unknown augmentation 'pad-corp'; did you mean 'pad-crop'?"),
        (("",), "unknown augmentation ''; allowed: 'affine', "),
        (("flip", "flip"), "each augmentation may be given once; 'flip' is given 2 times"),
        (("pad-crop:2", "pad-crop:4"), "each augmentation may be given once; 'pad-crop' is given 2 times"),
        (("none", "flip"), "augmentation 'none' stands alone; given 'none', 'flip'"),
        (("none:1",), "augmentation 'none' stands alone; given 'none:1'"),
        (("flip:1",), "augmentation 'flip' takes no number; given 'flip:1'"),
        (("pad-crop:",), "takes a whole number from 0 to 64 as padding; given 'pad-crop:'"),
        (("pad-crop:4.5",), "takes a whole number from 0 to 64 as padding; given 'pad-crop:4.5'"),
        (("pad-crop:65",), "takes a whole number from 0 to 64 as padding; given 'pad-crop:65'"),
        (("colour:much",), "takes a number from 0 to 1 as strength; given 'colour:much'"),
        (("colour:-0.1",), "takes a number from 0 to 1 as strength; given 'colour:-0.1'"),
        (("rand-augment:nan",), "takes a number from 0 to 10 as magnitude; given 'rand-augment:nan'"),
        (("rand-augment:6:11",), "from 0 to 10 as magnitude and one from 0 to 10 as noise; given 'rand-augment:6:11'"),
        (("rand-augment:6:x",), "from 0 to 10 as magnitude and one from 0 to 10 as noise; given 'rand-augment:6:x'"),
        (("rand-augment:6:1:1",), "as noise; given 'rand-augment:6:1:1'"),
        (("color:0.4:0.6",), "from 0 to 1 as strength and one from 0 to 0.5 as hue; given 'color:0.4:0.6'"),
        (("color:0.4:0.1:1",), "from 0 to 1 as strength and one from 0 to 0.5 as hue; given 'color:0.4:0.1:1'"),
        (("random-erasing:1.5",), "takes a number from 0 to 1 as probability; given 'random-erasing:1.5'"),
        (("random-erasing:0.5:1",), "takes a number from 0 to 1 as probability; given 'random-erasing:0.5:1'"),
        (("auto-augment:imagenet",), "augmentation 'auto-augment' takes no number; given 'auto-augment:imagenet'"),
        (("autoaugment",), "unknown augmentation 'autoaugment'; did you mean 'auto-augment'?"),
        (("auto-augment-cifar",), "unknown augmentation 'auto-augment-cifar'; did you mean 'auto-augment-cifar10'?"),
        (("trivialaugment",), "unknown augmentation 'trivialaugment'; did you mean 'trivial-augment'?"),
        (("erasing",), "unknown augmentation 'erasing'; did you mean 'random-erasing'?"),
        (("random-resized-crop:1.1",), "takes a number from 0 to 1 as min_area; given 'random-resized-crop:1.1'"),
        (("affine:inf",), "takes a number from 0 to 5 as factor; given 'affine:inf'"),
    ],
)
def test_says_what_cannot_be(names, message):
    with pytest.raises(ValueError) as error:
        parse_augmentations(names)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
