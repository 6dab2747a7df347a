"""Predictions against softmax in NumPy, for any batch size, from arrays and from files."""

import importlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import training_flax
import weights_flax
from resnet_flax import resnet20
from training_flax import Predictions, build_model, evaluate, open_dataset, predict
from training_flax.data.dataset import Dataset, Split
from training_flax.data.decode import centre_crop
from training_flax.inference.classifier import Classifier, image_channels
from training_flax.inference.predict import FileStream
from training_flax.inference.transform import View, with_channels

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
EPS = float(np.finfo(np.float32).eps)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    """Makes a narrow network with different classes, by statistics from a batch."""
    model = small(7)
    return model, trained(model, IMAGES, MEAN, STD)


def small(classes):
    """Makes a network with one block per stage."""
    return resnet20(width=4, num_classes=classes).clone(stage_sizes=(1, 1, 1))


def trained(model, images, mean, std):
    x = jnp.asarray((images / 255 - np.array(mean)) / np.array(std), jnp.float32)

    @jax.jit
    def init(x):
        variables = model.init(jax.random.key(1), x, train=False)
        for _ in range(20):
            _, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
            variables = {**variables, **updates}
        return variables

    return jax.device_get(init(x))


def softmax(logits):
    powers = np.exp(np.float64(logits) - np.float64(logits).max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def expected(network, images, mean=MEAN, std=STD):
    """Returns probabilities of all classes, by softmax in NumPy and float64."""
    model, variables = network
    x = jnp.asarray((images / 255 - np.array(mean)) / np.array(std), jnp.float32)
    return softmax(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x))


@pytest.mark.slow
def test_the_likeliest_classes_come_first_with_the_probabilities_of_softmax(network):
    found = predict(*network, IMAGES, mean=MEAN, std=STD, top=7)
    wanted = expected(network, IMAGES)
    assert isinstance(found, Predictions)
    assert (found.probabilities.dtype, found.classes.dtype) == (np.float32, np.int32)
    assert (np.diff(found.probabilities) <= 0).all()
    assert (np.sort(found.classes) == np.arange(7)).all()
    # Logits differ by the rounding of 8 layers in another order, and probabilities by the same relative error.
    by_class = np.take_along_axis(wanted, found.classes, 1)
    np.testing.assert_allclose(found.probabilities, by_class, rtol=300 * EPS, atol=EPS)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=8 * EPS)


@pytest.mark.slow
def test_five_classes_are_named_or_all_of_fewer(network):
    assert predict(*network, IMAGES[:2], mean=MEAN, std=STD).classes.shape == (2, 5)
    _, variables = network
    head = jax.tree.map(lambda leaf: leaf[..., :3], variables["params"]["fc"])
    fewer = {**variables, "params": {**variables["params"], "fc": head}}
    assert predict(small(3), fewer, IMAGES[:2], mean=MEAN, std=STD).classes.shape == (2, 3)


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_the_size_of_batches_changes_nothing_beyond_rounding(batch_size, network):
    """Batches of any size give the same predictions."""
    whole = predict(*network, IMAGES, mean=MEAN, std=STD, top=7)
    found = predict(*network, IMAGES, mean=MEAN, std=STD, top=7, batch_size=batch_size)
    np.testing.assert_array_equal(found.classes, whole.classes)
    np.testing.assert_allclose(found.probabilities, whole.probabilities, rtol=300 * EPS, atol=EPS)


@pytest.mark.slow
def test_float64_is_exact(network, x64):
    model = network[0].clone(dtype=jnp.float64, param_dtype=jnp.float64)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), network[1])
    found = predict(model, variables, IMAGES[:3], mean=MEAN, std=STD, top=7, batch_size=2)
    x = (IMAGES[:3] / 255 - np.array(MEAN)) / np.array(STD)
    wanted = softmax(model.apply(variables, x, train=False))
    np.testing.assert_allclose(found.probabilities, np.take_along_axis(wanted, found.classes, 1), rtol=1e-12)


@pytest.mark.slow
def test_the_first_classes_are_those_of_evaluation(network):
    digits = open_dataset("digits").test
    part = Split(digits.images[:50], digits.labels[:50])
    dataset = Dataset("some digits", part, part, tuple("0123456"), MEAN, STD)
    found = predict(*network, part.images, mean=MEAN, std=STD, top=1, batch_size=16)
    np.testing.assert_array_equal(found.classes[:, 0], evaluate(*network, dataset, 16).predictions)


@pytest.fixture
def files(tmp_path):
    """Writes image files of several sizes, and returns their pixels."""
    sizes = [(32, 32), (40, 64), (100, 33), (5, 7), (32, 32), (200, 180)]
    images = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths, images


@pytest.mark.slow
def test_files_give_what_their_middles_give(network, files):
    paths, images = files
    whole = np.stack([image if image.shape == (32, 32, 3) else centre_crop(image, 32, 0.875) for image in images])
    for keep, seen in (
        ({}, whole),
        ({"crop": 0.875}, np.stack([centre_crop(image, 32, 0.875) for image in images])),
        ({"crop": 1.0, "image_size": 24}, np.stack([centre_crop(image, 24, 1.0) for image in images])),
    ):
        found = predict(*network, paths, mean=MEAN, std=STD, batch_size=4, **keep)
        wanted = predict(*network, seen, mean=MEAN, std=STD, batch_size=4)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_one_path_is_a_list_of_one_and_of_none_there_is_nothing(network, files):
    alone = predict(*network, files[0][1], mean=MEAN, std=STD)
    listed = predict(*network, [str(files[0][1])], mean=MEAN, std=STD)
    np.testing.assert_array_equal(alone.classes, listed.classes)
    assert predict(*network, [], mean=MEAN, std=STD).probabilities.shape == (0, 5)
    assert predict(*network, IMAGES[:0], mean=MEAN, std=STD).classes.shape == (0, 5)


def test_a_stream_keeps_the_order_and_names_what_it_skips(network, files, tmp_path):
    paths = [str(path) for path in files[0]]
    (tmp_path / "broken.png").write_bytes(b"no image")
    lost = [str(tmp_path / "broken.png"), str(tmp_path / "missing.png")]
    given = [lost[0], *paths[:3], lost[1], *paths[3:], lost[1], lost[0], lost[0]]  # all of the last batch is broken
    classifier = Classifier(*network, MEAN, STD, 7, 3, len(given))
    batches = list(FileStream(classifier, given, View((32, 32)), workers=2))
    assert [path for batch in batches for path in batch.paths] == paths
    assert [line for batch in batches for line in batch.broken] == [
        f"{lost[0]!r}: not an image that Pillow reads",
        f"{lost[1]!r}: No such file or directory",
        f"{lost[1]!r}: No such file or directory",
        *[f"{lost[0]!r}: not an image that Pillow reads"] * 2,
    ]
    assert [batch.files for batch in batches] == [3, 3, 3, 2]
    classes = np.concatenate([batch.predictions.classes for batch in batches])
    np.testing.assert_array_equal(classes, predict(*network, paths, mean=MEAN, std=STD, top=7).classes)


def test_a_network_whose_numbers_are_not_finite_predicts_nothing(network, files):
    model, variables = network
    variables = jax.tree.map(np.copy, variables)
    variables["params"]["fc"]["bias"][:] = np.nan
    with pytest.raises(ValueError, match=r"^the network's numbers for image 0 are not finite$"):
        predict(model, variables, IMAGES, mean=MEAN, std=STD)
    with pytest.raises(ValueError, match=r"0.png': the network's numbers are not finite$"):
        predict(model, variables, files[0], mean=MEAN, std=STD)


def test_for_many_images_the_network_is_folded_and_says_the_same(network, monkeypatch):
    as_it_is = predict(*network, IMAGES, mean=MEAN, std=STD, batch_size=4)
    seen = []
    fold = weights_flax.fold_batch_norm
    monkeypatch.setattr(
        "training_flax.inference.classifier.fold_batch_norm", lambda *args: seen.append(fold(*args)) or seen[-1]
    )
    monkeypatch.setattr("training_flax.inference.classifier.WORTH_FOLDING", len(IMAGES) + 1)
    predict(*network, IMAGES, mean=MEAN, std=STD, batch_size=4)
    assert seen == []
    monkeypatch.setattr("training_flax.inference.classifier.WORTH_FOLDING", len(IMAGES))
    folded = predict(*network, IMAGES, mean=MEAN, std=STD, batch_size=4)
    predict(*seen[0], IMAGES, mean=MEAN, std=STD)  # a network that is folded already
    assert len(seen) == 1
    np.testing.assert_array_equal(folded.classes, as_it_is.classes)
    # Each of the 8 layers rounds a few times, in sums of up to 36 products with errors of both signs.
    np.testing.assert_allclose(folded.probabilities, as_it_is.probabilities, rtol=8 * 36 * EPS)


class SlowView(View):
    def fit(self, image, epoch=0, index=0):
        time.sleep(0.02)
        return super().fit(image, epoch, index)


@pytest.mark.parametrize("slow", ["decoding", "network"])
def test_a_stream_knows_what_it_waited_for(slow, network, files, monkeypatch):
    classifier = Classifier(*network, MEAN, STD, 5, 4, 4)
    classifier.compile((32, 32, 3))
    if slow == "network":
        import training_flax.inference.predict as module

        tell = module.told
        monkeypatch.setattr(module, "told", lambda *results: (time.sleep(0.08), tell(*results))[1])
    view = SlowView((32, 32)) if slow == "decoding" else View((32, 32))
    stream = FileStream(classifier, [str(path) for path in files[0]] * 4, view, workers=1)
    start = time.perf_counter()
    list(stream)
    seconds = time.perf_counter() - start
    slower, faster = stream.waited_for_images, stream.waited_for_network
    if slow == "network":
        slower, faster = faster, slower
    assert slower > max(faster, 0.3)  # 24 images, or 6 batches; the first or last one does not overlap
    assert slower + faster <= seconds


def test_grey_is_repeated_and_colours_become_the_luma_of_pillow():
    colours = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    luma = with_channels(colours, 1)
    np.testing.assert_array_equal(luma[..., 0], np.asarray(Image.fromarray(colours).convert("L")))
    greys = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(with_channels(with_channels(greys, 3), 1), greys)
    assert with_channels(colours, 3) is colours


def test_a_network_of_one_channel_sees_grey(network, tmp_path):
    (model, variables), grey = network, IMAGES[..., :1]
    first = {"kernel": variables["params"]["conv1"]["kernel"][:, :, :1]}
    variables = {**variables, "params": {**variables["params"], "conv1": first}}
    wanted = expected((model, variables), grey, (0.5,), (0.25,))
    Image.fromarray(grey[3, ..., 0]).save(tmp_path / "grey.png")
    for images in (grey[3:4], grey[3:4].repeat(3, -1), tmp_path / "grey.png"):
        found = predict(model, variables, images, mean=(0.5,), std=(0.25,), top=7)
        by_class = np.take_along_axis(wanted[3:4], found.classes, 1)
        np.testing.assert_allclose(found.probabilities, by_class, rtol=300 * EPS, atol=EPS)


@pytest.mark.parametrize("arch", ["resnet18", "resnet18_v2", "plain20", "densenet121", "densenet_40_12", "vgg19_bn"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_family_tells_how_many_channels_it_sees(arch, channels):
    images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    model = build_model(arch)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    assert image_channels(model, variables) == channels


def test_an_image_is_left_whole_only_where_nothing_has_to_be_resized():
    image = RNG.integers(0, 256, (20, 28, 3), dtype=np.uint8)
    np.testing.assert_array_equal(View((20, 28)).fit(image), image)
    with pytest.raises(ValueError, match=r"^20×28 pixels; the network sees 28×20, which is no square to resize to$"):
        View((28, 20)).fit(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": IMAGES[0]}, "images must have rank 4"),
        ({"images": IMAGES.astype(np.float32)}, "images must be uint8, pixels from 0 to 255; given float32"),
        ({"images": IMAGES[..., :2]}, "images must have 3 channels; given 2"),
        ({"image_size": 32}, "image_size and crop are for files; arrays are seen as they are"),
        ({"images": ["nowhere.png"]}, "'nowhere.png': No such file or directory"),
        ({"images": ["a.png"], "crop": 1.5}, "crop must be over 0 and at most 1; given 1.5"),
        ({"images": ["a.png"], "image_size": 0}, "image_size must be a positive integer; given 0"),
        ({"images": ["a.png"], "workers": 0}, "workers must be a positive integer; given 0"),
        ({"top": 0}, "top must be from 1 to the number of classes, 7; given 0"),
        ({"top": 8}, "top must be from 1 to the number of classes, 7; given 8"),
        ({"batch_size": 0}, "batch_size must be a positive integer; given 0"),
        ({"mean": (0.5, 0.5)}, "mean must be 3 numbers, one for each channel; given (0.5, 0.5)"),
        ({"std": (0.5, 0, 1)}, "std must be 3 numbers, none of them 0, one for each channel; given (0.5, 0, 1)"),
        ({"mean": (0.5, float("nan"), 1)}, "mean must be 3 numbers, one for each channel; given (0.5, nan, 1)"),
    ],
)
def test_wrong_input_gets_one_line(options, message, network):
    options = {"images": IMAGES, "mean": MEAN, "std": STD} | options
    with pytest.raises(ValueError) as error:
        predict(*network, options.pop("images"), **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_name_stays_the_function_after_the_command_of_that_name_is_imported():
    importlib.import_module("training_flax.predict")
    assert training_flax.predict is predict
