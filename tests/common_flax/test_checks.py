import pytest

from common_flax.checks import check_images, check_positive, check_rate, one_of


def test_the_nearest_match_is_named():
    with pytest.raises(ValueError, match=r"^unknown arch 'densnet121'; did you mean 'densenet121'\?$"):
        one_of("arch", "densnet121", ["resnet50", "densenet121"])


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
