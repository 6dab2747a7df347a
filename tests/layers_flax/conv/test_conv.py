import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close, derivatives
from programs import count

from layers_flax import Conv, conv2d

SHAPES = [  # height, width, in, out, kernel, stride, groups
    (7, 6, 4, 6, 1, 1, 1),
    (7, 6, 4, 6, 1, 2, 1),
    (6, 9, 4, 6, 3, 1, 1),
    (6, 9, 4, 6, 3, 2, 1),
    (8, 7, 4, 6, 3, 2, 2),
    (9, 8, 4, 6, 1, 1, 2),
    (11, 10, 3, 4, 7, 2, 1),
    (5, 5, 1, 2, 3, 1, 1),
    (1, 1, 4, 6, 3, 2, 1),
    # Outputs of up to 2×2 pixels, which run as a dot of patches.
    (1, 1, 4, 6, 3, 1, 1),
    (2, 2, 4, 6, 3, 1, 1),
    (1, 4, 4, 6, 3, 1, 1),
    (2, 1, 4, 6, 3, 1, 1),
    (4, 3, 4, 6, 3, 2, 1),
    (3, 2, 3, 4, 7, 2, 1),
    (2, 2, 4, 6, 3, 1, 2),
    # To a third of the channels or fewer, where the filter gradient is made of dots.
    (6, 5, 12, 4, 3, 1, 1),
    (1, 7, 12, 4, 3, 1, 1),
    (6, 7, 11, 2, 5, 1, 1),
    (6, 7, 12, 4, 3, 2, 1),
    # Of more than 32 channels, where it is a convolution of channels as images, as with any stride but 1.
    (6, 9, 2, 33, 3, 1, 1),
    (6, 9, 33, 16, 3, 1, 1),
    (9, 6, 4, 6, 2, 3, 1),
]


def draw(height, width, inputs, outputs, kernel, groups, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, height, width, inputs)), dtype)
    return x, jnp.asarray(rng.standard_normal((kernel, kernel, inputs // groups, outputs)), dtype)


def torch_conv2d(x, kernel, stride, padding, groups):
    """The definition, pixel by pixel: PyTorch pads both sides alike and drops what the last stride does not reach."""
    x, kernel = np.asarray(x), np.asarray(kernel)
    size, per_group = kernel.shape[0], kernel.shape[3] // groups
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            for g in range(groups):
                ins = slice(g * kernel.shape[2], (g + 1) * kernel.shape[2])
                outs = slice(g * per_group, (g + 1) * per_group)
                y[:, i, j, outs] = np.tensordot(patch[..., ins], kernel[..., outs], 3)
    return y


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition_with_pytorchs_padding(x64, shape):
    *sizes, kernel_size, stride, groups = shape
    x, kernel = draw(*sizes, kernel_size, groups)
    expected = torch_conv2d(x, kernel, stride, (kernel_size - 1) // 2, groups)
    assert_close(conv2d(x, kernel, stride=stride, groups=groups), expected, 1e-14)


@pytest.mark.parametrize("padding", [0, 2])
def test_padding_by_name(x64, padding):
    x, kernel = draw(7, 8, 2, 3, 3, 1)
    assert_close(conv2d(x, kernel, stride=2, padding=padding), torch_conv2d(x, kernel, 2, padding, 1), 1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_equal_the_stock_convolutions(x64, shape, stock_convolution):
    *sizes, kernel_size, stride, groups = shape
    x, kernel = draw(*sizes, kernel_size, groups)
    layer = Conv(kernel.shape[3], kernel_size, stride, groups=groups)

    def run(x, kernel):
        return layer.apply({"params": {"kernel": kernel}}, x)

    ours = derivatives(run, (x, kernel))
    stock_convolution()
    assert_close(ours, derivatives(run, (x, kernel)), 1e-13)


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_convolution_is_a_dot_forward_and_backward(stride):
    x, kernel = draw(8, 8, 4, 6, 1, 1, jnp.float32)
    program = jax.make_jaxpr(jax.grad(lambda x, k: conv2d(x, k, stride=stride).sum(), (0, 1)))(x, kernel)
    assert "dot_general" in str(program)
    assert "conv_general_dilated" not in str(program)


def test_tiny_images_convolve_by_one_dot_without_the_taps_that_see_only_padding():
    x, kernel = draw(1, 2, 4, 6, 3, 1, jnp.float32)
    program = jax.make_jaxpr(conv2d)(x, kernel)
    (dot,) = [equation for equation in program.eqns if equation.primitive.name == "dot_general"]
    # Of nine taps, the three of the middle row: 3 · 4 values a pixel.
    assert dot.invars[0].aval.shape == (4, 12)
    assert "conv_general_dilated" not in str(program)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("taps", [1, 3, 4, 7])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9])
def test_padding_same_is_that_of_lax(x64, size, taps, stride):
    x, kernel = draw(size, size + 1, 3, 2, taps, 1)
    stock = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert_close(conv2d(x, kernel, stride=stride, padding="same"), stock, 1e-12)


@pytest.mark.parametrize("size, taps, stride", [(8, 1, 2), (2, 3, 1), (4, 3, 2)])
def test_a_batch_of_any_size_is_convolved_as_it_is(size, taps, stride):
    """An exported program runs on any backend: it has no formula for the CPU, nor an index, which becomes a gather."""
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    program = str(jax.make_jaxpr(lambda x: conv2d(x, jnp.ones((taps, taps, 3, 5)), stride=stride))(images))
    assert "conv_general_dilated" in program
    assert not any(operation in program for operation in ("dot_general", "slice", "gather"))


@pytest.mark.parametrize(
    ("shape", "batch", "blocks"),
    [
        # Of stride 1 and of the size, balanced: as many images at a time as there is room for, and divide the batch.
        ((6, 5, 4, 3, 3, 1, 1), 8, 4),
        ((6, 5, 4, 3, 3, 1, 1), 9, 9),
        ((1, 7, 4, 3, 3, 1, 1), 8, 1),
        ((40, 5, 4, 3, 5, 1, 1), 2, 2),
        # Groups, of patches.
        ((6, 5, 4, 6, 3, 2, 2), 8, 4),
        ((6, 5, 4, 4, 3, 2, 2), 9, 9),
    ],
)
def test_filter_gradients_are_taken_block_by_block(x64, shape, batch, blocks, monkeypatch, stock_convolution):
    monkeypatch.setattr("layers_flax.conv.filter_gradients.BLOCK", 2 * 6 * 5 * 4 + 20)
    *sizes, kernel_size, stride, groups = shape
    x, kernel = draw(*sizes, kernel_size, groups)
    x = jnp.concatenate([(1 + i) * x[i % 2 :][:1] for i in range(batch)])
    layer = Conv(kernel.shape[3], kernel_size, stride, groups=groups)

    def run(x, kernel):
        return layer.apply({"params": {"kernel": kernel}}, x)

    y, transpose = jax.vjp(lambda kernel: run(x, kernel), kernel)
    program = str(jax.make_jaxpr(transpose)(y))
    assert re.findall(r"length=(\d+)", program) == [str(blocks)] * (blocks > 1)
    assert "dot_general" in program and "conv_general_dilated" not in program
    ours = derivatives(run, (x, kernel))
    stock_convolution()
    assert_close(ours, derivatives(run, (x, kernel)), 1e-13)


@pytest.mark.parametrize("stride", [1, 2])
def test_every_convolution_of_a_backward_pass_has_the_axes_that_xla_knows_in_loops(stride):
    """Others take a hundred times as long inside of a loop (jax 0.10, CPU)."""
    x, kernel = draw(8, 8, 4, 33, 3, 1, jnp.float32)
    y, transpose = jax.vjp(partial(conv2d, stride=stride), x, kernel)
    convolutions = re.findall(
        r"lhs_spec=(\(.*?\)), rhs_spec=(\(.*?\)), out_spec=(\(.*?\))", str(jax.make_jaxpr(transpose)(y))
    )
    # At a stride of more than 1 the image's gradient keeps the axes of JAX's transpose: blocks in loops have none.
    assert ("(0, 3, 1, 2)", "(3, 2, 0, 1)", "(0, 3, 1, 2)") in convolutions
    assert len(convolutions) == 2 and (stride > 1 or len(set(convolutions)) == 1)


@pytest.mark.parametrize("block", [1, 10**6])
@pytest.mark.parametrize("stride", [1, 2])
def test_nothing_but_images_and_kernel_is_kept_for_the_backward_pass(block, stride, monkeypatch):
    monkeypatch.setattr("layers_flax.conv.filter_gradients.BLOCK", block)
    x, kernel = draw(6, 5, 4, 6, 3, 1, jnp.float32)
    backward = jax.eval_shape(lambda x, k: jax.vjp(partial(conv2d, stride=stride), x, k)[1], x, kernel)
    assert sum(leaf.size for leaf in jax.tree.leaves(backward)) <= 2 * (x.size + kernel.size)


def test_of_no_images_the_filter_gradient_is_zero():
    x, kernel = draw(6, 5, 4, 6, 3, 1, jnp.float32)
    gradient = jax.grad(lambda kernel: conv2d(x[:0], kernel).sum())(kernel)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(kernel))


@pytest.mark.parametrize("groups", [1, 2])
def test_half_precision_keeps_xlas_filter_gradient(groups):
    """Sums over blocks would round in half precision."""
    x, kernel = draw(6, 5, 4, 6, 3, groups, jnp.bfloat16)
    program = str(jax.make_jaxpr(jax.grad(lambda k: conv2d(x, k, groups=groups).sum()))(kernel))
    assert "conv_general_dilated" in program and "dot_general" not in program


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "convolutions"),
    [(96, 48, 24, 3), (40, 20, 4, 2), (34, 68, 2, 1), (6, 12, 6, 1), (70, 10, 5, 5)],
)
def test_groups_are_convolved_together_and_their_filter_gradient_is_one_dot(
    x64, inputs, outputs, groups, convolutions, stride, stock_convolution
):
    x, kernel = draw(6, 5, inputs, outputs, 3, groups)
    layer = Conv(outputs, 3, stride, groups=groups)

    def run(x, kernel):
        return layer.apply({"params": {"kernel": kernel}}, x)

    y, transpose = jax.vjp(lambda kernel: run(x, kernel), kernel)
    assert count("dot_general", transpose, y) == 1
    assert count("conv_general_dilated", run, x, kernel) == convolutions
    ours = derivatives(run, (x, kernel))
    stock_convolution()
    assert_close(ours, derivatives(run, (x, kernel)), 1e-13)


def test_a_kernel_of_other_groups_is_named():
    x, kernel = draw(6, 5, 4, 6, 3, 2, jnp.float32)
    with pytest.raises(ValueError, match="1 groups of the kernel's 2 channels are not the images' 4 channels"):
        conv2d(x, kernel)


def test_on_several_devices_and_for_a_batch_of_any_size_there_are_no_blocks(monkeypatch):
    monkeypatch.setattr("layers_flax.conv.filter_gradients.BLOCK", 1)
    x, kernel = draw(6, 5, 4, 6, 3, 1, jnp.float32)

    def tangent(x):
        return jax.jvp(lambda kernel: conv2d(x, kernel), (kernel,), (kernel,))[1]

    assert "scan" in str(jax.make_jaxpr(tangent)(x))
    jax.clear_caches()  # of rules of differentiation, which do not know that there are more devices now
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert "scan" not in str(jax.make_jaxpr(tangent)(x))
    monkeypatch.undo()
    monkeypatch.setattr("layers_flax.conv.filter_gradients.BLOCK", 1)
    (batch,) = jax.export.symbolic_shape("batch")
    assert "scan" not in str(jax.make_jaxpr(tangent)(jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)))


def test_filter_gradient_to_few_channels_is_made_of_dots():
    x, kernel = draw(6, 5, 12, 4, 3, 1, jnp.float32)
    _, transpose = jax.vjp(lambda kernel: conv2d(x, kernel), kernel)
    cotangent = jnp.ones((2, 6, 5, 4))
    assert count("dot_general", transpose, cotangent) == 3
    assert count("conv_general_dilated", transpose, cotangent) == 0


def test_filter_gradient_from_few_channels_is_balanced():
    x, kernel = draw(6, 5, 4, 6, 3, 1, jnp.float32)
    _, transpose = jax.vjp(lambda kernel: conv2d(x, kernel), kernel)
    program = str(jax.make_jaxpr(transpose)(jnp.ones((2, 6, 5, 6))))
    # Three rows of the kernel with each of 2 · 6 · 5 pixels of the image, three columns with the gradient.
    assert "[60,12]" in program and "[60,18]" in program and "conv_general_dilated" not in program


def test_filter_gradient_of_a_stem_is_a_convolution():
    x, kernel = draw(6, 5, 3, 6, 3, 1, jnp.float32)
    _, transpose = jax.vjp(lambda kernel: conv2d(x, kernel), kernel)
    assert "dot_general" not in str(jax.make_jaxpr(transpose)(jnp.ones((2, 6, 5, 6))))


def test_compute_type_and_parameter_type():
    variables = Conv(4, use_bias=True, dtype=jnp.bfloat16).init(jax.random.key(0), jnp.zeros((1, 5, 5, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert Conv(4, dtype=jnp.bfloat16).apply(variables, jnp.zeros((1, 5, 5, 3))).dtype == jnp.bfloat16


@pytest.mark.parametrize(("inputs", "features"), [(4, 5), (5, 4)])
def test_groups_that_do_not_divide_are_named(inputs, features):
    with pytest.raises(ValueError, match=rf"groups=2 must divide the channels in \({inputs}\) and out \({features}\)"):
        Conv(features, groups=2).init(jax.random.key(0), jnp.zeros((1, 5, 5, inputs)))
