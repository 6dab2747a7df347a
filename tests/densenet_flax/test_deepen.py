"""A DenseNet in a deeper one: the same logits up to rounding, and training that goes on."""

import deepening
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import densenet_flax
from densenet_flax import (
    DenseNet,
    deepen,
    deepen_state,
    densenet121,
    densenet169,
    densenet_bc_40_12,
    densenet_bc_100_12,
)

CIFAR = dict(growth_rate=4, num_classes=10, stem_type="cifar")
KINDS = {
    "bottleneck": dict(),
    "odd widths": dict(compression=0.7, stem_width=5),
    "no bottleneck": dict(bottleneck_width=None, compression=1.0),
}


def pair(kind, old=(2, 2, 1), new=(3, 2, 4)):
    return DenseNet(old, **CIFAR, **KINDS[kind]), DenseNet(new, **CIFAR, **KINDS[kind])


def check_same(model, variables, deeper, images):
    deepened = deepen(model, variables, deeper)
    for train in (False, True):
        ours, theirs = (
            deepening.logits_of(*network, images, train) for network in ((deeper, deepened), (model, variables))
        )
        assert np.std(theirs) > 1e-2
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_network_is_the_same_in_a_deeper_one(kind):
    images, labels = deepening.digits()
    model, deeper = pair(kind)
    check_same(model, deepening.trained(model, images, labels), deeper, images[:64])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shallow", "deep", "options", "pixels"),
    [(densenet_bc_40_12, densenet_bc_100_12, {}, 16), (densenet121, densenet169, dict(num_classes=10), 32)],
)
def test_published_depths_go_into_the_next(shallow, deep, options, pixels):
    images, labels = deepening.digits(pixels)
    model = shallow(**options)
    check_same(model, deepening.trained_or_moved(model, images, labels), deep(**options), images[:32])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_old_parameters_train_as_before_and_new_ones_begin_to(x64, kind):
    """One step of momentum, in float64: the old parameters' gradients are those of the shallow network."""
    images, labels = deepening.digits()
    images, labels = jnp.asarray(np.asarray(images[:16]), float), jnp.asarray(np.asarray(labels[:16]))
    model, deeper = (m.clone(param_dtype=float) for m in pair(kind))
    variables = model.init(jax.random.key(1), images)
    deepened, after, deep_after = deepening.step_from(densenet_flax, model, deeper, variables, images, labels)
    # The old part of each parameter: what a tree of ones marks when it is deepened into zeros.
    ones = {"params": jax.tree.map(jnp.ones_like, variables["params"])}
    blank = {"params": jax.tree.map(jnp.zeros_like, deepened["params"])}
    marks = deepen_state(model, ones, deeper, blank)["params"]
    for (name, leaf, mark), (_, old, _) in zip(
        deepening.old_and_new(deep_after, marks),
        deepening.old_and_new(deepen_state(model, after, deeper, blank["params"]), {}),
        strict=True,
    ):
        difference = np.where(np.asarray(mark) == 1, leaf - old, 0)
        assert np.abs(difference).max() < 1e-10, name
    assert sum(int(np.sum(mark)) for mark in jax.tree.leaves(marks)) == sum(
        leaf.size for leaf in jax.tree.leaves(variables["params"])
    )
    # The first readers of what is new have moved away from zero; then the gradient reaches what makes it.
    reader = deep_after["classifier"]["kernel"]
    assert np.all(np.abs(np.asarray(reader)).max(1) > 0)
    gradient = jax.jit(jax.grad(deepening.loss_of(deeper, deepened, images, labels)))(deep_after)
    for name, leaf, _ in deepening.old_and_new(gradient, {}):
        assert np.any(leaf != 0), name


@pytest.mark.slow
def test_moments_of_new_parameters_start_at_zero():
    model, deeper = pair("bottleneck")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    optimiser = optax.adam(1e-3)
    _, state = optimiser.update(jax.tree.map(jnp.ones_like, variables["params"]), optimiser.init(variables["params"]))
    found = deepen_state(model, state, deeper, optimiser.init(deepen(model, variables, deeper)["params"]))
    assert optax.tree.get(found, "count") == 1
    mu = optax.tree.get(found, "mu")
    assert not np.any(mu["denseblock1"]["denselayer3"]["conv2"]["kernel"])
    kernel = np.asarray(mu["transition1"]["conv"]["kernel"])[0, 0]
    old, outputs = 8 + 2 * 4, (8 + 2 * 4) // 2
    assert np.all(kernel[:old, :outputs] > 0)
    assert not np.any(kernel[old:])
    assert not np.any(kernel[:, outputs:])


@pytest.mark.parametrize(
    ("deeper", "says"),
    [
        (densenet_bc_40_12(), "nowhere be smaller"),
        (densenet_bc_100_12(growth_rate=4), "growth_rate must be the same in the deeper network: 12; given 4"),
        (DenseNet((16, 16), growth_rate=12, num_classes=10, stem_type="cifar"), "3; given 2"),
    ],
)
def test_what_does_not_go_into_the_other_is_refused(deeper, says):
    model = DenseNet((8, 8, 8), growth_rate=12, num_classes=10, stem_type="cifar")
    with pytest.raises(ValueError, match=says):
        deepen(model, {"params": {}, "batch_stats": {}}, deeper)


@pytest.mark.slow
def test_variables_of_another_network_are_refused():
    model, deeper = pair("bottleneck")
    image = jnp.zeros((1, 16, 16, 3))
    with pytest.raises(ValueError, match="does not fit into shape"):
        deepen(model, pair("odd widths")[0].init(jax.random.key(0), image), deeper)
    with pytest.raises(ValueError, match="denselayer2/norm1/mean is missing"):
        deepen(model, pair("bottleneck", old=(1, 2, 1))[0].init(jax.random.key(0), image), deeper)
