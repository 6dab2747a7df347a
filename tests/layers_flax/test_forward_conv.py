"""The formulas of inference compute what `conv2d` computes, and stand where they are meant to."""

import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close

from layers_flax import conv2d, forward_conv2d

SHAPES = [  # height, width, in, out, kernel, stride, groups
    (6, 9, 4, 6, 3, 1, 1),
    (5, 5, 4, 6, 5, 1, 1),
    (3, 3, 1, 2, 3, 1, 1),
    (6, 9, 4, 65, 3, 1, 1),
    (6, 9, 4, 6, 1, 1, 1),
    (6, 9, 4, 6, 1, 2, 1),
    (6, 9, 4, 6, 3, 1, 2),
    (2, 2, 4, 6, 3, 1, 1),
    # Of stride 2 and few channels, as in a stem: of even width, of odd width, of more channels.
    (8, 8, 3, 4, 3, 2, 1),
    (9, 12, 3, 4, 5, 2, 1),
    (11, 10, 3, 4, 7, 2, 1),
    (11, 11, 3, 4, 7, 2, 1),
    (11, 10, 8, 4, 7, 2, 1),
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
    assert_close(forward_conv2d(x, kernel, stride=stride, groups=groups), expected, 1e-14)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_by_name(x64, padding, stride):
    x, kernel = draw(7, 8, 2, 3, 3, 1)
    expected = conv2d(x, kernel, stride=stride, padding=padding)
    assert_close(forward_conv2d(x, kernel, stride=stride, padding=padding), expected, 1e-14)
