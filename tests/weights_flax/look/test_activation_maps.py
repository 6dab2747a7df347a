"""Activation maps: they add up to logits, and equal the derivatives in their definition."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from laws import assert_close
from small_networks import SMALL, as_if_trained, draw_images64, stages_of
from structure import draw_images, init

from weights_flax import build_model, class_activation_map, grad_cam

CLASSIFIER = {"resnet18": "fc", "resnet20_v2": "fc", "densenet121": "classifier"}
PIXELS = {"resnet18": (2, 3), "resnet20_v2": (16, 24), "densenet121": (2, 3)}
CLASSES = np.array([3, 0])


@cache
def look(arch):
    """Returns a network, images, variables and logits, all in float64."""
    model, images = SMALL[arch], draw_images64(2, 64, 96, 3)
    variables = as_if_trained(model, images)
    return model, images, variables, jax.jit(model.apply)(variables, images)


@cache
def compiled(arch, function):
    """Returns the function with only variables, images and classes as arguments."""
    return jax.jit(lambda *arguments: function(SMALL[arch], *arguments))


@pytest.mark.parametrize("classes", [None, 4, CLASSES], ids=["likeliest", "one", "each"])
@pytest.mark.parametrize("arch", CLASSIFIER)
def test_a_map_and_the_bias_are_the_logit(x64, arch, classes):
    """The mean over all pixels of M_c, plus b_c, is the logit of c (Zhou 2016, section 2)."""
    _, images, variables, logits = look(arch)
    found = compiled(arch, class_activation_map)(variables, images, classes)
    assert found.shape == (2, *PIXELS[arch])
    chosen = np.argmax(logits, -1) if classes is None else np.broadcast_to(classes, 2)
    bias = variables["params"][CLASSIFIER[arch]]["bias"]
    expected = logits[np.arange(2), chosen]
    np.testing.assert_allclose(found.mean((1, 2)) + bias[chosen], expected, rtol=1e-12)
    assert np.all(np.ptp(found, (1, 2)) > 0.01 * np.abs(expected))  # and not the same everywhere


def test_a_pixel_of_a_map_is_the_logit_of_its_features_alone(x64):
    """If all pixels of the last map were equal to one pixel, the logit without its bias would be that pixel of M."""
    model, images, variables, _ = look("resnet18")
    x = model.apply(variables, images, method="stem")
    for index in range(4):
        x = model.apply(variables, x, index, method="stage")
    found = compiled("resnet18", class_activation_map)(variables, images, CLASSES)
    for row, column in np.ndindex(2, 3):
        alike = jnp.broadcast_to(x[:, row : row + 1, column : column + 1], x.shape)
        logits = model.apply(variables, alike, method="head") - variables["params"]["fc"]["bias"]
        np.testing.assert_allclose(found[:, row, column], logits[np.arange(2), CLASSES], rtol=1e-12)


@pytest.mark.parametrize("arch", CLASSIFIER)
def test_grad_cam_at_the_last_map_is_the_class_activation_map(x64, arch):
    """Here α_k is w_kc over the number of pixels (Selvaraju 2017, 3.1): Grad-CAM is relu(M) / pixels."""
    _, images, variables, logits = look(arch)
    expected = np.stack([compiled(arch, class_activation_map)(variables, images, c) for c in range(5)])
    found = np.stack([compiled(arch, grad_cam)(variables, images, c) for c in range(5)])
    assert np.any(expected < 0)
    assert np.any(expected > 0)
    assert_close(found, np.maximum(expected, 0) / np.prod(PIXELS[arch]), 1e-12)
    likeliest = compiled(arch, grad_cam)(variables, images, None)
    assert_close(likeliest, found[np.argmax(logits, -1), np.arange(2)], 1e-12)


@pytest.mark.parametrize(
    ("arch", "stage"), [("vgg11_bn", -1), ("vgg11_bn", 2), ("densenet121", 1), ("resnet20_v2", -2), ("resnet18", 0)]
)
def test_weights_of_grad_cam_are_what_a_channel_does_to_the_logit(x64, arch, stage):
    """A constant added to a channel raises the logit by the constant times α times the pixels, in forward mode."""
    model, images, variables, _ = look(arch)
    index = stage % stages_of(model)

    @jax.jit
    def growth(variables, images):
        x = model.apply(variables, images, method="stem")
        for i in range(index + 1):
            x = model.apply(variables, x, i, method="stage")

        def logit(shift):
            y = x + shift
            for i in range(index + 1, stages_of(model)):
                y = model.apply(variables, y, i, method="stage")
            return model.apply(variables, y, method="head")

        return x, jax.jacfwd(logit)(jnp.zeros(x.shape[-1]))

    x, by_channel = growth(variables, images)
    expected = np.maximum(np.einsum("bhwk,bck->cbhw", x, by_channel) / (x.shape[1] * x.shape[2]), 0)
    run = jax.jit(lambda classes: grad_cam(model, variables, images, classes, stage=stage))
    assert np.any(expected > 0)
    assert_close(np.stack([run(c) for c in range(5)]), expected, 1e-11)


def test_maps_of_images_do_not_depend_on_their_neighbours(x64):
    _, images, variables, _ = look("densenet121")
    for function in (class_activation_map, grad_cam):
        both = compiled("densenet121", function)(variables, images, CLASSES)
        swapped = compiled("densenet121", function)(variables, images[::-1], CLASSES[::-1])
        assert_close(swapped[::-1], both, 1e-12)


@pytest.mark.slow
def test_maps_under_bfloat16_are_float32():
    model = build_model("resnet20", width=4, dtype=jnp.bfloat16)
    images = draw_images(2, 16, 16, 3)
    variables = init(model, images)
    for function in (class_activation_map, grad_cam):
        narrow = function(model, variables, images, 3)
        wide = function(model.clone(dtype=None), variables, images, 3)
        assert narrow.dtype == jnp.float32
        # Each of some 20 layers adds a few roundings, of up to 2^-9 each.
        assert 0 < jnp.abs(narrow - wide).max() <= 60 * 2**-9 * jnp.abs(wide).max()


@pytest.mark.parametrize(
    ("arch", "function", "classes", "options", "message"),
    [
        ("vgg11_bn", class_activation_map, None, {}, "classifies the mean of a map; VGG does not: use grad_cam"),
        ("resnet18", class_activation_map, 5, {}, "classes must be integers from 0 to 4; given 5"),
        ("resnet18", grad_cam, [0, -1], {}, r"classes must be integers from 0 to 4; given \[0, -1\]"),
        ("resnet18", grad_cam, 0.5, {}, "classes must be integers from 0 to 4; given 0.5"),
        ("resnet18", grad_cam, [0, 1, 2], {}, r"one, or one for each of 2 images; given shape \(3,\)"),
        ("resnet18", grad_cam, None, {"stage": 4}, "stage must be from -4 to 3; given 4"),
        ("densenet121", grad_cam, None, {"stage": -5}, "stage must be from -4 to 3; given -5"),
    ],
)
def test_wrong_input_is_named(arch, function, classes, options, message):
    with pytest.raises(ValueError, match=message):
        function(SMALL[arch], {}, jnp.zeros((2, 32, 32, 3)), classes, **options)


@pytest.mark.parametrize("function", [class_activation_map, grad_cam])
def test_another_model_is_named(function):
    with pytest.raises(ValueError, match="a model must be a ResNet, PlainNet, VGG or DenseNet; given Dense"):
        function(nn.Dense(3), {}, jnp.zeros((1, 8, 8, 3)))
