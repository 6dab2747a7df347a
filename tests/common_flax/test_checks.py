import pytest

from common_flax.checks import check_images, check_positive, check_rate, nearest, one_of
from weights_flax import ARCHS


def test_the_nearest_match_is_named():
    with pytest.raises(ValueError, match=r"^unknown arch 'densnet121'; did you mean 'densenet121'\?$"):
        one_of("arch", "densnet121", ["resnet50", "densenet121"])


MEANT = {
    "resnet5O": "resnet50",
    "resnet5o": "resnet50",
    "resnetl8": "resnet18",
    "resnet1O1": "resnet101",
    "resnet-50": "resnet50",
    "ResNet50": "resnet50",
    "RESNET_50": "resnet50",
    "resnet 50": "resnet50",
    "resent50": "resnet50",
    "restnet50": "resnet50",
    "resnet5": "resnet50",
    "resnet51": "resnet50",
    "resnet500": "resnet50",
    "renset34": "resnet34",
    "resnet1001": "resnet1001_v2",
    "resnet18v2": "resnet18_v2",
    "resnext50": "resnext50_32x4d",
    "resnext-50-32x4d": "resnext50_32x4d",
    "wideresnet28-10": "wide_resnet28_10",
    "wide_resnet50": "wide_resnet50_2",
    "densnet121": "densenet121",
    "densenet12l": "densenet121",
    "densenet-121": "densenet121",
    "DenseNet121": "densenet121",
    "densenet112": "densenet121",
    "dennsenet169": "densenet169",
    "densenet": "densenet121",
    "densenet-bc-100-12": "densenet_bc_100_12",
    "densenet40": "densenet_40_12",
    "vgg16bn": "vgg16_bn",
    "VGG-19": "vgg19",
    "vg11": "vgg11",
    "plain": "plain18",
    "": None,
    "vit_base_patch16": None,
    "x": None,
    "猫": None,
}


@pytest.mark.parametrize("typed", MEANT)
def test_typical_typing_errors_lead_to_the_architecture_that_was_meant(typed):
    assert nearest(typed, ARCHS) == MEANT[typed]
    with pytest.raises(ValueError, match=rf"did you mean '{MEANT[typed]}'\?$" if MEANT[typed] else "; allowed: "):
        one_of("arch", typed, ARCHS)


@pytest.mark.parametrize("arch", ARCHS)
def test_names_that_differ_in_their_case_alone_lead_to_their_own(arch):
    assert nearest(arch.upper(), ARCHS) == arch


def test_of_equally_near_names_the_first_is_taken():
    assert nearest("ab1", ["ab2", "ab3"]) == "ab2"
    assert nearest("ab1", ["ab3", "ab2"]) == "ab3"
    assert nearest("ab1", []) is None


def test_without_a_match_all_of_a_short_list_are_named():
    with pytest.raises(ValueError, match=r"^unknown stem 'x'; allowed: 'imagenet', 'cifar'$"):
        one_of("stem", "x", ("imagenet", "cifar"))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_what_is_not_a_positive_integer_is_named(value):
    with pytest.raises(ValueError, match=rf"^width must be a positive integer; given {value!r}$"):
        check_positive("width", value)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_what_is_not_a_rate_is_named(value):
    with pytest.raises(ValueError, match=rf"^dropout must be at least 0 and under 1; given {value!r}$"):
        check_rate("dropout", value)


def test_images_of_another_rank_are_named():
    with pytest.raises(ValueError, match=r"given shape \(32, 32, 3\) of rank 3$"):
        check_images((32, 32, 3))
    check_images((1, 32, 32, 3))
