"""The dot of a 1×1 convolution: the derivatives of a product, and the order its factors are read in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close, derivatives

from layers_flax import conv2d, target_backend
from layers_flax.conv.pointwise import SOME, dot_of_pixels


def draw(pixels, inputs, outputs):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((pixels, inputs))), jnp.asarray(rng.standard_normal((inputs, outputs)))


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 3), (3, 5)])
@pytest.mark.parametrize("pixels", [0, 1, 2, SOME, SOME + 1])
def test_derivatives_are_those_of_the_product(x64, pixels, inputs, outputs):
    arguments = draw(pixels, inputs, outputs)
    # Sums over up to 2049 pixels, rounded in another order.
    assert_close(derivatives(dot_of_pixels, arguments), derivatives(jnp.dot, arguments), 1e-12)


@pytest.mark.parametrize(
    ("pixels", "inputs", "outputs", "turned"),
    [
        (2, 6, 3, [(6, 2)]),  # the image's gradient: 2 · (6 + 3) numbers are no more than the kernel's 18
        (3, 6, 3, [(3, 6)]),  # the kernel
        (4, 6, 3, [(3, 6), (3, 6)]),  # and its gradient, which has fewer numbers than the images
        (SOME, 5, 3, [(3, 5), (3, 5)]),
        (SOME + 1, 5, 3, [(3, 5)]),
    ],
)
def test_the_smaller_factor_is_turned_around(pixels, inputs, outputs, turned):
    """What waits behind a barrier is turned around by itself, and not within a dot."""
    x, kernel = draw(pixels, inputs, outputs)
    y, transpose = jax.vjp(dot_of_pixels, x, kernel)
    barriers = [one for one in jax.make_jaxpr(transpose)(y).eqns if one.primitive.name == "optimization_barrier"]
    shapes = [barrier.invars[0].aval.shape for barrier in barriers]
    assert sorted(shapes) == sorted(turned)


def test_a_product_to_more_channels_is_not_turned_around():
    x, kernel = draw(SOME + 1, 3, 5)
    y, transpose = jax.vjp(dot_of_pixels, x, kernel)
    assert "optimization_barrier" not in str(jax.make_jaxpr(transpose)(y))


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_elsewhere_it_is_a_convolution(name):
    images, kernel = jnp.ones((1, 2, 2, 5)), jnp.ones((1, 1, 5, 3))

    def program():
        return str(jax.make_jaxpr(jax.grad(lambda kernel: conv2d(images, kernel).sum()))(kernel))

    assert "dot_general" in program() and "conv_general_dilated" not in program()
    with target_backend(name):
        assert "conv_general_dilated" in program() and "dot_general" not in program()


def test_strided_it_is_a_convolution_forward_and_a_dot_of_the_pixels_cut_out_where_it_is_differentiated():
    images, kernel = jnp.ones((2, 4, 4, 5)), jnp.ones((1, 1, 5, 3))

    def run(images, kernel):
        return conv2d(images, kernel, stride=2, padding=0).sum()

    def kinds(function):
        text = str(jax.make_jaxpr(lambda *arguments: function(*arguments))(images, kernel))
        return {kind for kind in ("conv_general_dilated", "dot_general", " slice[") if kind in text}

    assert kinds(run) == {"conv_general_dilated"}
    assert kinds(jax.grad(run, (0, 1))) == {"dot_general", " slice["}
    with target_backend("gpu"):
        assert kinds(run) == kinds(jax.grad(run, (0, 1))) == {"conv_general_dilated"}
