"""Equal to torchvision's networks in float64: values, gradients, running statistics."""

import pytest
from parity import check_parity

import resnet_flax

LLVM = 1


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_resnet_equals_torchvisions(x64, arch):
    check_parity(resnet_flax, arch)


@pytest.mark.slow
def test_vgg_equals_torchvisions(x64):
    check_parity(resnet_flax, "vgg19_bn", dropout=0.0)
