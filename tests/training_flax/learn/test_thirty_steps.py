"""Thirty steps of training in float64 beside PyTorch's, and averages beside timm's; `make_training.py` made the arrays.

Each bound is on the error of a tensor's projections over the tensor's norm: 1e-12 after the first steps, 1e-11 after
ten, and 1e-10 after thirty: rounding grows with the training. Found were 1e-15, 1e-14 and 1e-13.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import GOLDEN, tensor
from training_reference import CASES, LOOKED_AT, NETWORKS, STEPS, batch, options, projections

from resnet_flax import from_torch, to_torch
from training_flax import TrainConfig, build_model, learning_rate, make_optimizer, make_train_step, start_state

NINE_BLOCKS = True
BOUNDS = {1: 1e-12, 2: 1e-12, 10: 1e-11, 30: 1e-10}
STEP_OPTIONS = ("label_smoothing", "accumulate", "ema", "ema_warmup")
# PyTorch's clipping divides by the norm + 1e-6, Optax's by the norm.
TORCH_EPSILON = 1e-6


@cache
def stored():
    with np.load(GOLDEN / "training.npz") as arrays:
        return dict(arrays)


def wanted(arch, case):
    return {name.split("/")[2]: value for name, value in stored().items() if name.startswith(f"{arch}/{case}/")}


def config_of(arch, case):
    return TrainConfig(arch, recipe="he2015-cifar", dtype="float64", **options(case))


def train(arch, case, steps=STEPS):
    """Yields the number of each step, the state after it, and the loss, for the steps that were stored."""
    model = build_model(arch, num_classes=10, param_dtype=jnp.float64, dtype=jnp.float64, running_variance="unbiased")
    drawn = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    start = from_torch(model, {name: tensor(name, x.shape) for name, x in to_torch(model, drawn).items()})
    optimizer, chosen = make_optimizer(config_of(arch, case), STEPS), options(case)
    state = start_state(start, optimizer, jax.random.key(0), ema=bool(chosen["ema"]))
    step = jax.jit(make_train_step(model, optimizer, **{name: chosen[name] for name in STEP_OPTIONS}))
    for number in range(1, steps + 1):
        images, labels = batch(number - 1)
        state, metrics = step(state, jnp.asarray(images), jnp.asarray(labels, jnp.int32))
        yield number, model, state, float(metrics.loss), float(metrics.gradient_norm)


def error(model, variables, expected):
    found = projections({name: np.asarray(value) for name, value in to_torch(model, variables).items()})
    return np.abs(found - expected).max()


# Two cases are quick with both networks; the others of the DenseNet take too long together.
QUICK = ("warm-up and cosine", "accumulation")
TRAININGS = [
    pytest.param(arch, case, marks=[pytest.mark.slow] * (arch != "resnet20" and case not in QUICK))
    for arch in NETWORKS
    for case in CASES
    if case != "clipping"
]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "case"), TRAININGS)
def test_steps_are_pytorchs(x64, arch, case):
    expected = wanted(arch, case)
    assert ("average after 1" in expected) == bool(options(case)["ema"])
    for number, model, state, loss, norm in train(arch, case):
        bound = BOUNDS[min(step for step in LOOKED_AT if step >= number)]
        assert loss == pytest.approx(expected["losses"][number - 1], rel=bound), number
        assert norm == pytest.approx(expected["norms"][number - 1], rel=10 * bound), number
        if number in LOOKED_AT:
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            assert error(model, variables, expected[f"after {number}"]) < bound, number
            if state.ema is not None:
                assert error(model, state.ema, expected[f"average after {number}"]) < bound, number


@pytest.mark.parametrize("case", CASES)
def test_learning_rates_are_pytorchs(x64, case):
    """Schedules in float64, when they are asked one step at a time or all steps at once."""
    rate = learning_rate(config_of("resnet20", case), STEPS)
    expected = wanted("resnet20", case)["rates"]
    found = [rate(jnp.int32(step)) for step in range(STEPS)]
    assert {jnp.asarray(value).dtype for value in found} == {jnp.dtype("float64")}
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-13, atol=1e-17)
    np.testing.assert_allclose(jax.vmap(rate)(np.arange(STEPS)), expected, rtol=1e-13, atol=1e-17)


@pytest.mark.slow
@pytest.mark.parametrize("arch", NETWORKS)
def test_clipping_is_pytorchs_up_to_what_pytorch_adds_to_the_norm(x64, arch):
    """Ours clips to the limit itself; PyTorch's gradients are smaller by a share of 1e-6 / norm."""
    expected = wanted(arch, "clipping")
    share = TORCH_EPSILON / expected["norms"].min()
    for number, model, state, loss, _ in train(arch, "clipping", 10):
        assert loss == pytest.approx(expected["losses"][number - 1], rel=20 * number * share)
        if number in LOOKED_AT:
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            assert error(model, variables, expected[f"after {number}"]) < number * share, number
