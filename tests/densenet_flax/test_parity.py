"""Equal to torchvision's networks in float64: values, gradients, running statistics."""

import pytest
from parity import check_parity

import densenet_flax

LLVM = 1


@pytest.mark.slow
def test_densenet_equals_torchvisions(x64):
    check_parity(densenet_flax, "densenet121")
