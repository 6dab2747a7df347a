"""Sizes of every architecture, against the paper's and torchvision's figures."""

import pytest

import densenet_flax
from densenet_flax import ARCHS, FAMILIES, densenet121, densenet_bc_100_12
from layers_flax import count_multiply_adds, count_parameters

PARAMETERS = {
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "densenet264": 33_337_704,
    "densenet_40_12": 1_019_722,
    "densenet_100_12": 6_979_642,
    "densenet_100_24": 27_249_082,
    "densenet_bc_100_12": 769_162,
    "densenet_bc_250_24": 15_324_406,
    "densenet_bc_190_40": 25_624_430,
}
"""Trainable parameters: 1000 classes at 224 pixels, 10 at 32, 3 input channels."""

BILLION_MULTIPLY_ADDS = {
    "densenet121": 2.834,
    "densenet161": 7.728,
    "densenet169": 3.360,
    "densenet201": 4.291,
    "densenet264": 5.752,
    "densenet_bc_100_12": 0.288,
}


def image_shape(arch):
    return (32, 32, 3) if "_" in arch else (224, 224, 3)


@pytest.mark.slow
@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameters(arch):
    assert count_parameters(ARCHS[arch](), image_shape(arch)) == PARAMETERS[arch]


@pytest.mark.parametrize("arch", BILLION_MULTIPLY_ADDS)
def test_multiply_adds(arch):
    ours = count_multiply_adds(ARCHS[arch](), image_shape(arch)) / 1e9
    assert ours == pytest.approx(BILLION_MULTIPLY_ADDS[arch], rel=0.005)


@pytest.mark.parametrize("arch", [name for name in ARCHS if "_" in name])
def test_names_of_cifar_networks_count_their_layers(arch):
    """Depth and growth rate stand in the name: convolutions and the classifier, 2 transitions among them."""
    depth, growth_rate = map(int, arch.split("_")[-2:])
    model = ARCHS[arch]()
    per_layer = 1 if model.bottleneck_width is None else 2
    assert 1 + per_layer * sum(model.block_sizes) + 2 + 1 == depth
    assert model.growth_rate == growth_rate


def test_every_architecture_is_a_function_of_its_name():
    for name, constructor in ARCHS.items():
        assert getattr(densenet_flax, name) is constructor
        assert name in densenet_flax.__all__
        assert constructor.__doc__
    assert sum(map(len, FAMILIES.values())) == len(ARCHS) == 12


def test_options_reach_the_model():
    model = densenet_bc_100_12(num_classes=7, growth_rate=4, block_sizes=(2, 3), compression=0.25, bottleneck_width=2)
    assert (model.num_classes, model.growth_rate, model.block_sizes) == (7, 4, (2, 3))
    assert (model.compression, model.bottleneck_width) == (0.25, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(stem_type="imagnet"), "unknown stem_type 'imagnet'; did you mean 'imagenet'?"),
        (dict(compression=0), "compression must be over 0 and at most 1; given 0"),
        (dict(growth_rate=-1), "growth_rate must be a positive integer; given -1"),
        (dict(bottleneck_width=0), "bottleneck_width must be a positive integer; given 0"),
        (dict(compression="x"), "compression must be over 0 and at most 1; given 'x'"),
        (dict(block_sizes=(0.5, 1)), "block_sizes must be one or more integers of at least 0; given (0.5, 1)"),
        (dict(stem_width=-3), "stem_width must be a positive integer; given -3"),
        (dict(remat="x"), "remat must be True or False; given 'x'"),
        (dict(dropout=2), "dropout must be at least 0 and under 1; given 2"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        densenet121(**options)
    assert message in str(error.value)
