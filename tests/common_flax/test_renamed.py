import pytest

import layers_flax
import training_flax

OLD = [
    (training_flax, "Part", "Split"),
    (layers_flax, "once", "optimization_barrier"),
    (layers_flax, "forward_conv2d", "inference_conv2d"),
    (layers_flax, "in_pieces", "in_chunks"),
]


@pytest.mark.parametrize(("package", "old", "new"), OLD)
def test_an_old_name_is_given_with_a_warning(package, old, new):
    with pytest.warns(DeprecationWarning, match=f"^{package.__name__}.{old} is {new} now$"):
        assert getattr(package, old) is getattr(package, new)


def test_a_name_that_never_was_is_an_error():
    for package in (layers_flax, training_flax):
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'piece'"):
            _ = package.piece
