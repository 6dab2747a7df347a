"""Sizes of every architecture, against the papers' and torchvision's figures."""

import jax
import numpy as np
import pytest

import resnet_flax
from layers_flax import count_multiply_adds, count_parameters
from resnet_flax import ARCHS, FAMILIES, ResNet, resnet20, resnet34, resnet50, resnet56, resnet110, vgg19

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "plain18": 11_515_688,
    "plain34": 21_623_848,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet1202": 19_421_274,
    "wide_resnet28_10": 36_479_194,
}
"""Trainable parameters: 1000 classes at 224 pixels, 10 at 32, 3 input channels."""

BILLION_MULTIPLY_ADDS = {
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "vgg19": 19.632,
    "resnet20": 0.041,
    "resnet56": 0.125,
    "resnet110": 0.253,
    "resnet1202": 2.829,
}

CIFAR = {"resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet1202", "wide_resnet28_10"}


def image_shape(arch):
    return (32, 32, 3) if arch in CIFAR else (224, 224, 3)


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameters(arch):
    assert count_parameters(ARCHS[arch](), image_shape(arch)) == PARAMETERS[arch]


@pytest.mark.parametrize(
    ("constructor", "parameters"), [(resnet20, 272_474), (resnet56, 855_770), (resnet110, 1_730_714)]
)
def test_parameters_with_projections(constructor, parameters):
    assert count_parameters(constructor(shortcut="B"), (32, 32, 3)) == parameters


@pytest.mark.parametrize("arch", BILLION_MULTIPLY_ADDS)
def test_multiply_adds(arch):
    """Within half a percent; the smallest figure is rounded more coarsely than that: half of its last digit."""
    ours = count_multiply_adds(ARCHS[arch](), image_shape(arch)) / 1e9
    assert ours == pytest.approx(BILLION_MULTIPLY_ADDS[arch], rel=0.005, abs=0.0005)


@pytest.mark.parametrize(("arch", "billions"), [("resnet50", 3.858), ("resnet101", 7.570), ("resnet152", 11.282)])
def test_multiply_adds_with_the_papers_strides(arch, billions):
    model = ARCHS[arch](bottleneck_stride="v1")
    assert count_multiply_adds(model) / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize(
    ("arch", "parameters"),
    # He 2016 gives 1.7 M (110), 1.7 M (164) and 10.2 M (1001), rounded.
    [("resnet110_v2", 1.7e6), ("resnet164_v2", 1.7e6), ("resnet1001_v2", 10.2e6)],
)
def test_parameters_of_pre_activation_networks_are_near_the_papers(arch, parameters):
    assert count_parameters(ARCHS[arch](), (32, 32, 3)) == pytest.approx(parameters, rel=0.03)


def test_every_architecture_is_a_function_of_its_name():
    for name, constructor in ARCHS.items():
        assert getattr(resnet_flax, name) is constructor
        assert name in resnet_flax.__all__
        assert constructor.__doc__
        assert constructor().num_classes in (10, 1000)
    assert sum(map(len, FAMILIES.values())) == len(ARCHS) == 42


@pytest.mark.parametrize("arch", ["resnet20", "resnet20_v2", "plain20", "resnet50", "vgg11"])
def test_options_reach_the_model(arch):
    model = ARCHS[arch](num_classes=7, width=8)
    assert (model.num_classes, model.width) == (7, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resnet20(stem_type="cifra"), "unknown stem_type 'cifra'; did you mean 'cifar'?"),
        (lambda: resnet20(shortcut="D"), "unknown shortcut 'D'; allowed: 'A', 'B', 'C', None"),
        (lambda: resnet50(bottleneck_stride="v2"), "unknown bottleneck_stride 'v2'; allowed: 'v1.5', 'v1'"),
        (lambda: resnet50(num_classes=0), "num_classes must be a positive integer; given 0"),
        (lambda: resnet34(groups=32), "groups=32, width_per_group=64 need a bottleneck block"),
        (lambda: ARCHS["plain20"](shortcut="A"), "unknown shortcut of a plain network 'A'; allowed: None"),
        (lambda: ARCHS["plain20"](zero_init=True), "would make a plain network output zero"),
        (lambda: vgg19(dropout=1.0), "dropout must be at least 0 and under 1; given 1.0"),
        (lambda: resnet20(drop_path="0.1"), "drop_path must be at least 0 and under 1; given '0.1'"),
        (lambda: resnet20(zero_init="no"), "zero_init must be True or False; given 'no'"),
        (lambda: resnet20(frozen_batch_norm=1), "frozen_batch_norm must be True or False; given 1"),
        (
            lambda: resnet20(dtype="half-ish"),
            "dtype must be a type of floating point, such as jnp.bfloat16; given 'half-ish'",
        ),
        (lambda: resnet20(param_dtype=np.int8), "param_dtype must be a type of floating point"),
        (lambda: resnet20(stem_width=0), "stem_width must be a positive integer; given 0"),
        (lambda: vgg19(running_variance="q"), "unknown running_variance 'q'; allowed: 'biased', 'unbiased'"),
        (lambda: ResNet(()), "stage_sizes must be one or more integers of at least 0; given ()"),
        (lambda: ResNet((1.0, 1)), "stage_sizes must be one or more integers of at least 0; given (1.0, 1)"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_lists_and_integers_of_numpy_are_those_of_python():
    model = resnet20(num_classes=np.int64(10))
    assert model == resnet20()
    assert type(model.num_classes) is int
    assert hash(ResNet([1, 2])) == hash(ResNet((1, 2)))


@pytest.mark.parametrize("arch", ["resnet20", "vgg11"])
def test_no_image_gives_no_logits(arch):
    model = ARCHS[arch](width=4, num_classes=3)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert model.apply(variables, np.zeros((0, 32, 32, 3), np.float32)).shape == (0, 3)
