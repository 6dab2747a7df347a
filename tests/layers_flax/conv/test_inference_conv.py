"""The formulas of inference compute what `conv2d` computes, and stand where they are meant to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close

from layers_flax import conv2d, inference_conv2d, target_backend

SHAPES = [  # height, width, in, out, kernel, stride, groups
    # Of stride 1, of more than 16 channels to few, of many rows: one row too many.
    (28, 3, 17, 6, 3, 1, 1),
    (29, 4, 17, 64, 5, 1, 1),
    # What is left to training's formulas.
    (5, 6, 4, 256, 3, 1, 1),
    (7, 6, 4, 256, 3, 2, 1),
    (6, 9, 4, 6, 3, 1, 1),
    (28, 3, 16, 6, 3, 1, 1),
    (27, 4, 17, 6, 3, 1, 1),
    (28, 3, 17, 65, 3, 1, 1),
    (11, 10, 8, 4, 7, 2, 1),
    (15, 14, 4, 256, 3, 1, 1),
    (7, 6, 4, 6, 1, 1, 1),
    (7, 6, 4, 6, 1, 2, 1),
    (12, 13, 4, 6, 3, 1, 2),
    (2, 2, 4, 256, 3, 1, 1),
    (1, 3, 4, 256, 3, 2, 1),
]


def draw(height, width, inputs, outputs, kernel, groups):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, height, width, inputs)))
    return x, jnp.asarray(rng.standard_normal((kernel, kernel, inputs // groups, outputs)))


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_convolution_of_training(x64, shape):
    *sizes, stride, groups = shape
    x, kernel = draw(*sizes, groups)
    expected = conv2d(x, kernel, stride=stride, groups=groups)
    assert_close(inference_conv2d(x, kernel, stride=stride, groups=groups), expected, 1e-14)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_by_name(x64, padding, stride):
    x, kernel = draw(7, 8, 2, 3, 3, 1)
    expected = conv2d(x, kernel, stride=stride, padding=padding)
    assert_close(inference_conv2d(x, kernel, stride=stride, padding=padding), expected, 1e-14)


def program(shape):
    *sizes, stride, groups = shape
    return str(
        jax.make_jaxpr(lambda x, kernel: inference_conv2d(x, kernel, stride=stride, groups=groups))(
            *draw(*sizes, groups)
        )
    )


@pytest.mark.parametrize(
    ("shape", "made_of", "convolves"),
    [
        ((28, 3, 17, 6, 3, 1, 1), "2,29,3,6", True),  # a row more than the image has
        ((7, 6, 4, 6, 1, 2, 1), "2,4,3,6", True),  # of pixels left out no dot
        ((7, 6, 4, 6, 1, 1, 1), "84,6", False),
    ],
)
def test_the_formula_is_chosen_by_shape(shape, made_of, convolves):
    assert f"[{made_of}]" in program(shape)
    assert ("conv_general_dilated" in program(shape)) == convolves


def test_elsewhere_the_formulas_are_those_of_training():
    with target_backend("gpu"):
        assert "[2,28,3,6]" in program((28, 3, 17, 6, 3, 1, 1))
        assert "[2,29,3,6]" not in program((28, 3, 17, 6, 3, 1, 1))
