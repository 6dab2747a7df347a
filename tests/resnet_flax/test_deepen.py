"""A residual network in a deeper one: the same logits bit for bit, and training that goes on."""

from itertools import pairwise

import deepening
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from options import train_scalar

import resnet_flax
from resnet_flax import (
    ARCHS,
    BasicBlock,
    BottleneckBlock,
    PreActBasicBlock,
    PreActBottleneckBlock,
    ResNet,
    deepen,
    deepen_state,
    plain20,
    plain56,
    resnet20,
    resnet56,
)

CIFAR = dict(num_classes=10, stem_type="cifar", width=8)
KINDS = {
    "basic": (BasicBlock, dict(shortcut="A")),
    "basic_v2": (PreActBasicBlock, dict(shortcut="A")),
    "bottleneck": (BottleneckBlock, {}),
    "bottleneck_v2": (PreActBottleneckBlock, {}),
    "wide": (BottleneckBlock, dict(width_per_group=128)),
    "resnext": (BottleneckBlock, dict(groups=4, width_per_group=16)),
}


def pair(kind, old=(1, 2), new=(3, 3)):
    block, options = KINDS[kind]
    return ResNet(old, block, **CIFAR, **options), ResNet(new, block, **CIFAR, **options)


def is_new(name, old=(1, 2)):
    return any(f"layer{i + 1}_{j}" in name for i, size in enumerate(old) for j in range(size, 9))


def check_same(model, variables, deeper, images):
    deepened = deepen(model, variables, deeper)
    for train in (False, True):
        ours, theirs = (
            deepening.logits_of(*network, images, train) for network in ((deeper, deepened), (model, variables))
        )
        assert np.std(theirs) > 1e-2
        np.testing.assert_array_equal(ours, theirs)
    return deepened


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_network_is_the_same_in_a_deeper_one(kind, some_of_llvm):
    images, labels = deepening.digits()
    model, deeper = pair(kind)
    variables = deepening.trained(model, images, labels)
    deepened = check_same(model, variables, deeper, images[:64])
    for name, leaf, old in deepening.old_and_new(deepened, variables):
        assert is_new(name) if old is None else np.array_equal(leaf, old), name


SCALED = dict(num_classes=10, width=8)
CHAINS = {
    "resnet20": (("resnet20", "resnet56", "resnet110"), dict(width=16), 16),
    "resnet20_v2": (("resnet20_v2", "resnet56_v2", "resnet110_v2"), dict(width=16), 16),
    "resnet18": (("resnet18", "resnet34"), dict(num_classes=10, width=64), 32),
    "resnet18_v2": (("resnet18_v2", "resnet34_v2"), SCALED, 32),
    "resnet50": (("resnet50", "resnet101", "resnet152"), SCALED, 32),
    "resnet50_v2": (("resnet50_v2", "resnet101_v2", "resnet152_v2"), SCALED, 32),
    "wide_resnet50_2": (("wide_resnet50_2", "wide_resnet101_2"), SCALED, 32),
}


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_published_depths_go_into_the_next(chain):
    """`resnet20`, its v2 and `resnet18` have their published widths here, the others an eighth."""
    archs, options, pixels = CHAINS[chain]
    images, labels = deepening.digits(pixels)
    models = [ARCHS[arch](**options) for arch in archs]
    variables = deepening.trained_or_moved(models[0], images, labels)
    for model, deeper in pairwise(models):
        variables = check_same(model, variables, deeper, images[:32])


@pytest.mark.slow
def test_resnext_goes_into_a_deeper_one_of_the_same_groups(some_of_llvm):
    images, _ = deepening.digits(32)
    options = dict(num_classes=10, groups=32, width_per_group=4, width=32)
    model, deeper = (ResNet(sizes, BottleneckBlock, **options) for sizes in ((3, 4, 6, 3), (3, 4, 23, 3)))
    check_same(model, deepening.moved(model, images), deeper, images[:32])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_old_parameters_train_as_before_and_new_ones_begin_to(x64, kind):
    """One step of momentum, in float64: the old parameters' gradients are those of the shallow network."""
    images, labels = deepening.digits()
    images, labels = jnp.asarray(np.asarray(images[:16]), float), jnp.asarray(np.asarray(labels[:16]))
    model, deeper = (m.clone(param_dtype=float) for m in pair(kind))
    variables = model.init(jax.random.key(1), images)
    deepened, after, deep_after = deepening.step_from(resnet_flax, model, deeper, variables, images, labels)
    last = {BasicBlock: "bn2", PreActBasicBlock: "conv2", BottleneckBlock: "bn3", PreActBottleneckBlock: "conv3"}
    for name, leaf, old in deepening.old_and_new(deep_after, after):
        if old is not None:
            assert np.abs(leaf - old).max() < 1e-10, name
    # What stood at zero has moved; then the gradient reaches the rest of the new blocks.
    moved = {name: leaf for name, leaf, _ in deepening.old_and_new(deep_after, {}) if is_new(name)}
    zeros = [leaf for name, leaf in moved.items() if f"'{last[model.block]}'" in name and "bias" not in name]
    assert len(zeros) == 3
    assert all(np.all(np.abs(leaf).max((0, 1) if leaf.ndim == 4 else ()) > 0) for leaf in zeros)
    gradient = jax.jit(jax.grad(deepening.loss_of(deeper, deepened, images, labels)))(deep_after)
    for name, leaf, _ in deepening.old_and_new(gradient, {}):
        assert np.any(leaf != 0), name


@pytest.mark.slow
def test_a_state_of_adam_goes_on():
    model, deeper = pair("basic")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    deepened = deepen(model, variables, deeper)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, mask=lambda p: jax.tree.map(jnp.ndim, p)))
    state = optimiser.init(variables["params"])
    for _ in range(2):
        _, state = optimiser.update(jax.tree.map(jnp.ones_like, variables["params"]), state, variables["params"])
    found = deepen_state(model, state, deeper, optimiser.init(deepened["params"]))
    assert jax.tree.structure(found) == jax.tree.structure(optimiser.init(deepened["params"]))
    assert optax.tree.get(found, "count") == 2
    for moment, value in (("mu", 0.19), ("nu", 0.001999)):
        norm = optax.tree.get(state, moment)["bn1"]["scale"][0]
        for name, leaf, old in deepening.old_and_new(optax.tree.get(found, moment), optax.tree.get(state, moment)):
            np.testing.assert_array_equal(leaf, 0 if old is None else old, name)
        assert 0 < norm < value
    with pytest.raises(ValueError, match="is missing in the tree to deepen"):
        deepen_state(model, optax.sgd(0.1, 0.9).init(variables["params"]), deeper, state)


@pytest.mark.slow
def test_new_blocks_are_drawn_by_the_key():
    model, deeper = pair("basic")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    kernels = [
        deepen(model, variables, deeper, key=key)["params"][block]["conv1"]["kernel"]
        for key in (None, jax.random.key(0), jax.random.key(1))
        for block in ("layer1_1", "layer1_2", "layer2_2")
    ]
    assert np.array_equal(kernels[0], kernels[3])
    assert not np.array_equal(kernels[0], kernels[6])
    assert not np.array_equal(kernels[0], kernels[1])
    assert np.std(kernels[0]) == pytest.approx((2 / (9 * 8)) ** 0.5, rel=0.2)  # He's, by fan-out


@pytest.mark.slow
def test_options_that_change_no_number_may_differ():
    model, deeper = pair("basic_v2")
    images, _ = deepening.digits()
    variables = model.init(jax.random.key(0), images[:1])
    deeper = deeper.clone(zero_init=True, drop_path=0.2, remat=True)
    deepened = deepen(model, variables, deeper)
    np.testing.assert_array_equal(
        *(deepening.logits_of(*network, images[:8], False) for network in ((model, variables), (deeper, deepened)))
    )
    _, (dropped, _) = train_scalar(deeper, deepened, images[:8])(deepened["params"])
    assert np.all(np.isfinite(dropped))


@pytest.mark.parametrize(
    ("model", "deeper", "says"),
    [
        (plain20(width=4), plain56(width=4), "PlainNet has no shortcuts"),
        (resnet20(shortcut="C", width=4), resnet56(shortcut="C", width=4), "shortcut 'C'"),
        (resnet20(width=4), plain56(width=4), "given a PlainNet"),
        (resnet56(width=4), resnet20(width=4), r"nowhere be smaller in the deeper network than \(9, 9, 9\)"),
        (resnet20(width=4), resnet56(width=8), "width must be the same in the deeper network: 4; given 8"),
        (resnet20(width=4), resnet56(width=4, num_classes=5), "num_classes"),
        (resnet20(width=4), ARCHS["resnet56_v2"](width=4), "BasicBlock; given PreActBasicBlock"),
        (resnet20(width=4), resnet20(width=4).clone(stage_sizes=(4, 4)), "3; given 2"),
        (ResNet((0, 1)), ResNet((1, 1)), "at least 1"),
    ],
)  # fmt: skip
def test_what_does_not_go_into_the_other_is_refused(model, deeper, says):
    with pytest.raises(ValueError, match=says):
        deepen(model, {"params": {}, "batch_stats": {}}, deeper)


def test_variables_of_another_network_are_refused():
    model, deeper = pair("basic")
    image = jnp.zeros((1, 16, 16, 3))
    variables = model.init(jax.random.key(0), image)
    with pytest.raises(ValueError, match="batch_stats/layer2_1/bn1/mean is missing"):
        deepen(model, pair("basic", old=(1, 1))[0].init(jax.random.key(0), image), deeper)
    with pytest.raises(ValueError, match="does not fit into shape"):
        deepen(model, model.clone(num_classes=5).init(jax.random.key(0), image), deeper)
    with pytest.raises(ValueError, match="params/extra is in the tree to deepen"):
        deepen(model, {**variables, "params": {**variables["params"], "extra": jnp.ones(1)}}, deeper)
