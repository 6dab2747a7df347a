"""Learning rates that fall from head to stem: the parts of each family, and the factors on their updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers_flax import variables_by_shape
from training_flax import TrainConfig, make_optimizer, plan
from training_flax.config.config import build_network
from training_flax.learn.layer_rates import factors_of, parts_of, told

NINE_BLOCKS = True
SMALL = {
    "resnet20": dict(width=4),
    "resnet50": dict(width=4),
    "resnet18_v2": dict(width=4),
    "densenet_bc_100_12": dict(growth_rate=4),
    "densenet121": dict(growth_rate=4),
    "vgg11_bn": dict(width=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", SMALL)
def test_each_parameter_is_in_one_part(arch):
    model = build_network(TrainConfig(arch, **SMALL[arch]), 3)
    parts = parts_of(model)
    names = [name for part in parts.values() for name in part]
    assert len(set(names)) == len(names)
    assert set(names) == set(variables_by_shape(model, (model.published_size, model.published_size, 3))["params"])
    assert list(parts) == ["stem", *(f"stage {i}" for i in range(len(model.stage_sizes))), "head"]


def test_parts_are_the_papers():
    parts = parts_of(build_network(TrainConfig("resnet20", width=4), 3))
    assert set(parts["stem"]) == {"conv1", "bn1"}
    assert set(parts["stage 1"]) == {"layer2_0", "layer2_1", "layer2_2"}
    assert parts["head"] == ("fc",)
    parts = parts_of(build_network(TrainConfig("densenet121", growth_rate=4), 3))
    assert set(parts["head"]) == {"norm5", "classifier"}


def test_rates_are_powers_of_the_distance_from_the_head():
    config = TrainConfig("resnet50", width=4, layer_decay=0.5)
    factors = factors_of(config, 0.5)
    assert factors == {
        "stem": 1 / 32,
        "stage 0": 1 / 16,
        "stage 1": 1 / 8,
        "stage 2": 1 / 4,
        "stage 3": 1 / 2,
        "head": 1,
    }
    assert told(config, 0.75) == "stem × 0.237, stages × 0.316, 0.422, 0.562, 0.75, head × 1"
    # A VGG has no parameters before its first stage.
    assert told(TrainConfig("vgg11", width=4), 0.5) == "stages × 0.0312, 0.0625, 0.125, 0.25, 0.5, head × 1"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb"])
def test_updates_have_the_factors_of_their_parts(optimizer):
    """Weight decay that is decoupled too; moments are those of one rate for all."""
    config = dict(width=4, optimizer=optimizer, lr=0.1, weight_decay=0.1, schedule="constant", warmup=0.0)
    model = build_network(TrainConfig("resnet20", width=4), 3)
    shapes = variables_by_shape(model, (32, 32, 3))["params"]
    rng = np.random.default_rng(0)
    params, gradient = (
        jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes) for _ in "ab"
    )
    updates = []
    for layer_decay in (1.0, 0.5):
        made = make_optimizer(TrainConfig("resnet20", layer_decay=layer_decay, **config), 10)
        updates.append(jax.jit(made.update)(gradient, made.init(params), params)[0])
    for part, names in parts_of(model).items():
        factor = factors_of(TrainConfig("resnet20", width=4), 0.5)[part]
        for name in names:
            for one, other in zip(*(jax.tree.leaves(tree[name]) for tree in updates), strict=True):
                np.testing.assert_allclose(other, factor * one, rtol=1e-6)  # powers of 2 are exact, fusions are not


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 1.5, float("nan")])
def test_says_which_factors_there_are(layer_decay):
    with pytest.raises(ValueError, match=f"^layer_decay must be over 0 and at most 1; given {layer_decay}$"):
        plan(TrainConfig("resnet20", layer_decay=layer_decay))


@pytest.mark.slow
def test_stacked_stages_are_kept_apart():
    options = dict(data="fake:8x8x3:2:64", width=2, batch_size=16, augment=())
    assert plan(TrainConfig("resnet1202", **options)).stacked
    assert not plan(TrainConfig("resnet1202", layer_decay=0.5, **options)).stacked
    assert plan(TrainConfig("resnet1202", optimizer="lion", **options)).stacked
    assert not plan(TrainConfig("resnet1202", optimizer="adafactor", **options)).stacked
