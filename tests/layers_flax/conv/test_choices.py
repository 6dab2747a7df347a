"""The tables of choices: every row is met by a layer of a published network."""

import pytest

from benchmarks.layers import layers_of
from layers_flax import target_backend
from layers_flax.conv import choices

TABLES = {name: getattr(choices, name) for name in ("CONVOLUTION", "KERNEL_GRADIENT", "INFERENCE")}


@pytest.fixture(scope="module")
def shapes():
    """Convolutions of networks on images of their own size, and on small ones."""
    archs = ("resnet18", "resnet20", "densenet121", "densenet_bc_100_12", "resnext50_32x4d")
    layers = [layer for arch in archs for layer in layers_of(arch)]
    layers += layers_of("resnet18", 32)
    return [layer.shape(batch) for layer in layers if layer.kind == "conv" for batch in (1, 8, 64)]


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_met_by_a_layer(table, shapes):
    assert {choices.row_of(TABLES[table], shape) for shape in shapes} - {None} == set(TABLES[table])


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_for_the_cpu_and_a_known_number_of_images(table, shapes):
    for backend in ("gpu", "tpu"):
        with target_backend(backend):
            assert {choices.row_of(TABLES[table], shape) for shape in shapes} == {None}
    assert {choices.row_of(TABLES[table], shape._replace(batch=None)) for shape in shapes} == {None}


@pytest.mark.parametrize("table", TABLES)
def test_every_row_says_what_it_is_for_and_why(table):
    for row in TABLES[table]:
        assert row.fits.__doc__ and "\n" not in row.fits.__doc__ and row.why


@pytest.mark.parametrize(("inputs", "batch", "formula"), [(28, 64, "balanced"), (32, 2, "balanced"), (32, 3, None)])
def test_32_channels_are_balanced_of_few_pixels_alone(inputs, batch, formula):
    """Of more, processors differ in which formula is faster, by a tenth or so."""
    shape = choices.Shape(batch, (16, 16), inputs, 32, (3, 3), 1, ((1, 1), (1, 1)), 1, 4)
    assert choices.choose(choices.KERNEL_GRADIENT, shape) == (formula or "channels as images")


@pytest.mark.parametrize(("inputs", "formula"), [(1012, "dots, then shifts"), (1024, "channels as images")])
def test_gradients_of_a_multiple_of_1024_channels_are_no_dot(inputs, formula):
    shape = choices.Shape(64, (8, 8), inputs, 12, (3, 3), 1, ((1, 1), (1, 1)), 1, 4)
    assert choices.choose(choices.KERNEL_GRADIENT, shape) == formula
