"""Every format read back for every architecture, bit for bit."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from drawn import check_same, drawn

from resnet_flax import ResNet, resnet20
from weights_flax import ARCHS, build_model, load_model, load_weights, save_weights
from weights_flax.io.archs import constructor_options, describe
from weights_flax.io.save import FORMATS

DEEP = ("resnet1202", "resnet1001_v2", "resnet200_v2")


def narrow(arch):
    """Builds the architecture with few channels, so that files are small; all its names remain."""
    options = constructor_options(arch)
    if "growth_rate" in options:
        return build_model(arch, growth_rate=4, num_classes=3)
    # Such a narrow bottleneck cannot have 32 groups, or twice its width in channels.
    groups = {"resnext50_32x4d": dict(groups=2, width_per_group=64), "resnext101_32x8d": dict(groups=2)}
    return build_model(arch, width=16 if arch.startswith("resnext") else 4, num_classes=3, **groups.get(arch, {}))


@pytest.mark.parametrize("arch", [pytest.param(a, marks=pytest.mark.slow) if a in DEEP else a for a in ARCHS])
def test_every_architecture_through_every_format(tmp_path, arch):
    model = narrow(arch)
    assert build_model(describe(model)[0], num_classes=3, **describe(model)[1]) == model
    variables = drawn(model)
    for ending in FORMATS:
        path = save_weights(model, variables, tmp_path / f"weights{ending}")
        check_same(load_weights(model, path), variables)
    assert {path.name for path in tmp_path.iterdir()} == {f"weights{ending}" for ending in FORMATS}


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_a_file_with_a_card_says_all_that_its_model_is(tmp_path, ending):
    model = resnet20(width=8, shortcut="B", zero_init=True, num_classes=3)
    names, mean, std = ["a", "b", "c"], [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]
    path = save_weights(
        model, drawn(model), tmp_path / f"w{ending}", class_names=names, mean=mean, std=std, licence="MIT", source="me"
    )
    loaded = load_model(path)
    assert loaded.model == model
    check_same(loaded.variables, drawn(model))
    assert loaded.card == {
        "arch": "resnet20",
        "options": {"shortcut": "B", "width": 8, "zero_init": True},
        "num_classes": 3,
        "class_names": names,
        "normalisation": {"mean": mean, "std": std},
        "licence": "MIT",
        "source": "me",
    }


@pytest.mark.parametrize("ending", FORMATS)
def test_the_same_weights_give_the_same_file(tmp_path, ending):
    model = resnet20(width=4)
    first, second = (save_weights(model, drawn(model), tmp_path / f"{name}{ending}") for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16, jnp.float16])
def test_other_types_of_parameters(x64, tmp_path, ending, dtype):
    """Statistics stay float32 where parameters are half."""
    model = resnet20(width=4, param_dtype=dtype)
    variables = drawn(model)
    assert variables["params"]["conv1"]["kernel"].dtype in (np.float64, ml_dtypes.bfloat16, np.float16)
    check_same(load_weights(model, save_weights(model, variables, tmp_path / f"w{ending}")), variables)


def test_a_network_of_no_published_depth(tmp_path):
    """The network has no name, but its weights can be saved, and show its blocks and its depth."""
    model = ResNet((1, 2), width=4, num_classes=3)
    path = save_weights(model, drawn(model), tmp_path / "w.safetensors")
    check_same(load_weights(model, path), drawn(model))
    assert load_model(path).model == model
    check_same(load_model(path).variables, drawn(model))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(path="w.h5"), "unknown ending of a file of weights '.h5'"),
        (dict(class_names=["a"]), "class_names must be 10, one for each class; given 1"),
        (dict(mean=[0.5]), r"give mean and std, or neither; given mean=\[0.5\], std=None"),
        (dict(model=resnet20(width=8)), "state dict does not fit the model; misshapen: "),
        (dict(variables={"params": {}}), "state dict does not fit the model; missing: "),
    ],
)
def test_what_cannot_be_saved_leaves_nothing(tmp_path, change, said):
    model = resnet20(width=4)
    arguments = {"model": model, "variables": drawn(model), "path": "w.safetensors", **change}
    path = tmp_path / arguments.pop("path")
    with pytest.raises(ValueError, match=said):
        save_weights(arguments.pop("model"), arguments.pop("variables"), path, **arguments)
    assert list(tmp_path.iterdir()) == []
