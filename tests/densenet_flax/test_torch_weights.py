import re

import jax
import numpy as np
import pytest
from torch_names import (
    check_errors,
    check_parts_of_variables,
    check_round_trip,
    check_wrappers_and_counters,
    drawn_state_dict,
)

import densenet_flax
from densenet_flax import ARCHS

TORCHVISION = ["densenet121", "densenet161", "densenet169", "densenet201"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", [*TORCHVISION, "densenet_40_12", "densenet_bc_40_12"])
def test_round_trip(arch):
    check_round_trip(densenet_flax, ARCHS[arch]())


def test_wrappers_and_counters():
    check_wrappers_and_counters(densenet_flax, ARCHS["densenet_bc_40_12"]())


def test_the_spelling_of_old_files():
    model = ARCHS["densenet121"]()
    state_dict = drawn_state_dict(densenet_flax, model)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): v for name, v in state_dict.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    ours, theirs = densenet_flax.from_torch(model, old), densenet_flax.from_torch(model, state_dict)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))


def test_errors():
    first, second = "features.denseblock1.denselayer2.norm2.bias", "features.transition1.conv.weight"
    check_errors(densenet_flax, ARCHS["densenet_bc_40_12"](), first, second)


def test_parts_of_variables():
    check_parts_of_variables(densenet_flax, ARCHS["densenet_bc_40_12"]())


def test_nothing_is_taken_from_an_empty_state_dict():
    with pytest.raises(ValueError, match=r"missing: .*\(\d+ in all\)"):
        densenet_flax.from_torch(ARCHS["densenet_bc_40_12"](), {})
