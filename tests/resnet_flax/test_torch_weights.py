import ml_dtypes
import numpy as np
import pytest
from torch_names import (
    check_errors,
    check_parts_of_variables,
    check_round_trip,
    check_wrappers_and_counters,
    drawn_state_dict,
)

import resnet_flax
from resnet_flax import ARCHS

TORCHVISION = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
]


@pytest.mark.slow
@pytest.mark.parametrize("arch", [*TORCHVISION, "resnet20", "resnet20_v2", "plain20", "wide_resnet28_10"])
def test_round_trip(arch):
    check_round_trip(resnet_flax, ARCHS[arch]())


def test_names_are_torchvisions():
    names = drawn_state_dict(resnet_flax, ARCHS["resnet50"]()).keys()
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias", "fc.bias"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet20", "vgg11_bn"])
def test_wrappers_and_counters(arch):
    check_wrappers_and_counters(resnet_flax, ARCHS[arch]())


def test_errors():
    check_errors(resnet_flax, ARCHS["resnet20"](), "layer1.0.bn2.running_var", "layer2.0.conv1.weight")


def test_parts_of_variables():
    check_parts_of_variables(resnet_flax, ARCHS["resnet20"]())


def test_one_channel_and_other_classes():
    model = ARCHS["resnet20"](num_classes=3)
    state_dict = drawn_state_dict(resnet_flax, model, channels=1)
    variables = resnet_flax.from_torch(model, state_dict)
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 1, 16)
    assert variables["params"]["fc"]["kernel"].shape == (64, 3)


class Tensor:
    """What from_torch uses of a PyTorch tensor."""

    def __init__(self, array, dtype):
        self._array, self.dtype, self.shape = array, dtype, array.shape

    def detach(self):
        return self

    def cpu(self):
        return self

    def float(self):
        return Tensor(self._array.astype(np.float32), "torch.float32")

    def numpy(self):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._array


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "torch.float16"), (ml_dtypes.bfloat16, "torch.bfloat16")])
def test_tensors_of_narrow_types_keep_them(dtype, name):
    model = ARCHS["resnet20"]()
    arrays = {key: value.astype(dtype) for key, value in drawn_state_dict(resnet_flax, model).items()}
    tensors = {key: Tensor(value, name) for key, value in arrays.items()}
    back = resnet_flax.to_torch(model, resnet_flax.from_torch(model, tensors))
    assert all(value.dtype == dtype and np.array_equal(value, arrays[key]) for key, value in back.items())
