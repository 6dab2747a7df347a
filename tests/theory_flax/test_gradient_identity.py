"""The identity ∂L/∂x_1 = g + Σ c_l on the real networks: both sides, term by term."""

import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from densenet_flax import densenet121, densenet_bc_40_12
from resnet_flax import (
    plain20,
    resnet18,
    resnet18_v2,
    resnet20,
    resnet20_v2,
    resnet50_v2,
    resnet56_v2,
    resnet110_v2,
    resnet164_v2,
    vgg11,
)
from theory_flax import gradient_identity, gradient_identity_of, gradient_profile, path_lengths, relative_error, unroll
from theory_flax.base.unroll import cross_entropy, walk

SMALL = dict(num_classes=5, width=4)
NETWORKS = {
    "resnet20_v2": (resnet20_v2(**SMALL), 16),
    "resnet20": (resnet20(**SMALL), 16),
    "resnet18_v2": (resnet18_v2(**SMALL), 32),
    "resnet18": (resnet18(**SMALL), 32),
    "densenet_bc_40_12": (densenet_bc_40_12(num_classes=5, growth_rate=2), 16),
}
WHOLE = {  # the published networks
    "resnet56_v2": resnet56_v2,
    "resnet110_v2": resnet110_v2,
    "resnet164_v2": resnet164_v2,
    "resnet50_v2": resnet50_v2,
    "resnet20": resnet20,
    "densenet_bc_40_12": densenet_bc_40_12,
    "densenet121": densenet121,
}


def make(model, size, dtype, batch=4):
    """A network whose variables differ from their initial values: no scale is 1, no running average 0 or 1."""
    model = model.clone(param_dtype=dtype)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(batch, size, size, 3)), dtype)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)

    def draw(path, leaf):
        if leaf.ndim > 1:
            return rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return (
            rng.uniform(0.5, 1.5, leaf.shape) if path[-1].key in ("scale", "var") else rng.normal(size=leaf.shape) / 5
        )

    variables = jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(draw(path, leaf), dtype), shapes)
    return model, variables, images, jnp.arange(batch) % model.num_classes


@pytest.fixture(params=NETWORKS)
def network(request, x64):
    """A small network of each kind in float64, and both sides of the identity in its second stage."""
    return taken_apart(request.param)


@cache
def taken_apart(name):
    made = make(*NETWORKS[name], jnp.float64)
    return *made, gradient_identity(*made, stage=1, train=True)


@pytest.mark.slow
def test_the_two_sides_are_equal_in_float64(network):
    *made, found = network
    assert found.relative_error <= 1e-12
    evaluated = gradient_identity(*made, stage=1, train=False)
    assert evaluated.relative_error <= 1e-12
    assert relative_error(evaluated.total, evaluated.identity, evaluated.residuals) == evaluated.relative_error


def test_leaving_a_residual_out_or_turning_its_sign_breaks_it(network):
    *_, found = network
    parts = list(found.residuals)
    assert relative_error(found.total, found.identity, parts[1:]) > 1e-3
    assert relative_error(found.total, found.identity, [-parts[0], *parts[1:]]) > 1e-3
    assert relative_error(found.total, -found.identity, parts) > 1e-3


def test_each_term_is_the_pullback_of_its_residual(network):
    """c_l by its definition: the gradient of ⟨cotangent at h_l, h_l(x_l(x_1))⟩, one block after the other."""
    model, variables, images, labels, found = network
    start = walk(model, variables, images, labels, stage=1, train=True)
    inputs = [start.x1]
    for step in start.steps:
        inputs.append(step(inputs[-1]))
    along = jax.grad(start.loss_of)(inputs[-1])
    for index in reversed(range(len(start.steps))):
        step, x = start.steps[index], inputs[index]
        if step.join == "concatenate":
            width = step.residual(x).shape[-1]
            along, arriving = along[..., :-width], along[..., -width:]
        else:
            along = arriving = along * (inputs[index + 1] > 0) if step.join == "relu" else along

        def component(x1, index=index, arriving=arriving):
            for earlier in start.steps[:index]:
                x1 = earlier(x1)
            return jnp.vdot(arriving, start.steps[index].residual(x1))

        term = jax.grad(component)(start.x1)
        np.testing.assert_allclose(found.residuals[index], term, rtol=0, atol=1e-12 * np.abs(found.total).max())
    np.testing.assert_allclose(found.identity, along, rtol=0, atol=1e-12 * np.abs(found.total).max())


def test_shares_by_forward_mode_are_those_of_the_terms(network):
    *_, found = network
    norm = np.vdot(found.total, found.total)
    np.testing.assert_allclose(found.shares, [np.vdot(c, found.total) / norm for c in found.residuals], atol=1e-12)
    assert found.identity_share + found.shares.sum() == pytest.approx(1, abs=1e-12)


def test_only_activations_after_the_sum_cost_the_plain_identity(network):
    model, *_, found = network
    if not hasattr(model, "block"):
        assert found.plain_error is None
    elif model.block.pre_activation:
        assert found.plain_error <= 1e-12
    else:
        assert found.plain_error > 1e-2


@pytest.mark.slow
def test_the_left_side_is_the_gradient_of_the_model_itself(network):
    """A loss without the decomposition: the model's own call, inside which x_1 is moved."""
    model, variables, images, labels, found = network
    residual = hasattr(model, "block")

    @jax.jit
    def first():
        bound = model.bind(variables)
        x = bound.stage(bound.stem(images, True), 0, True)
        return bound.stages[1][0](x, True) if residual else bound.transitions[0](x, True)

    @jax.jit
    def loss(x1):
        x, bound = x1, model.bind(variables)
        if residual:
            for block in bound.stages[1][1:]:
                x = block(x, True)
        else:
            x = bound.blocks[1](x, True)
        for index in range(2, len(model.stage_sizes if residual else model.block_sizes)):
            x = bound.stage(x, index, True)
        return cross_entropy(bound.head(x, True), labels)

    x1 = first()
    np.testing.assert_allclose(
        loss(x1), cross_entropy(model.apply(variables, images, True, mutable=["batch_stats"])[0], labels), rtol=1e-12
    )
    np.testing.assert_allclose(found.total, jax.jit(jax.grad(loss))(x1), rtol=0, atol=1e-12 * np.abs(found.total).max())
    # Central differences have errors of rounding / step, about 1e-10, and of the ReLUs' kinks within the step.
    direction = jax.random.normal(jax.random.key(1), x1.shape, x1.dtype)
    step = 1e-6
    slope = (loss(x1 + step * direction) - loss(x1 - step * direction)) / (2 * step)
    assert slope == pytest.approx(np.vdot(found.total, direction), rel=1e-5)


def test_unroll_gives_the_stage_in_pieces(network):
    model, variables, images, labels, _ = network
    x1, residuals, loss_of = unroll(model, variables, images, labels, stage=1, train=True)
    x = x1
    for residual in residuals:
        y = residual(x)
        if not hasattr(model, "block"):
            x = jnp.concatenate([x, y], -1)
        else:
            x = x + y if model.block.pre_activation else jax.nn.relu(x + y)
    logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    assert float(loss_of(x)) == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-12)


def test_profile_and_paths_are_of_the_same_gradient(network):
    *made, found = network
    profile = gradient_profile(*made, stage=1, train=True)
    assert profile.total[0] == pytest.approx(np.linalg.norm(found.total), rel=1e-12)
    assert profile.identity[0] == pytest.approx(np.linalg.norm(found.identity), rel=1e-12)
    np.testing.assert_allclose(profile.residual[0], np.linalg.norm(sum(found.residuals)), rtol=1e-9)
    assert len(profile.total) == len(found.residuals) + 1
    paths = path_lengths(*made, stage=1, train=True)
    assert paths.shares.sum() == pytest.approx(1, abs=1e-12)
    assert paths.norms[0] == pytest.approx(np.linalg.norm(found.identity), rel=1e-12)
    assert paths.shares[0] == pytest.approx(found.identity_share, abs=1e-12)


def test_paths_of_length_one_pass_one_residual(x64):
    """The part linear in the residuals: the derivative with respect to a factor on all residuals, at factor 0."""
    model, variables, images, labels = make(*NETWORKS["resnet20_v2"], jnp.float64)
    start = walk(model, variables, images, labels, stage=1, train=True)
    inputs = [start.x1]
    for step in start.steps:
        inputs.append(step(inputs[-1]))
    g = jax.grad(start.loss_of)(inputs[-1])

    def scaled(factor):
        along = g
        for step, x in zip(reversed(start.steps), reversed(inputs[:-1]), strict=True):
            along = along + factor * jax.vjp(step.residual, x)[1](along)[0]
        return along

    linear = jax.jvp(scaled, (0.0,), (1.0,))[1]
    assert path_lengths(model, variables, images, labels, stage=1, train=True).norms[1] == pytest.approx(
        float(jnp.linalg.norm(linear)), rel=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet20_v2", "resnet20"])
def test_of_a_whole_network_the_one_is_the_composition_of_its_shortcuts(arch, x64):
    made = make(*NETWORKS[arch], jnp.float64)
    found = gradient_identity(*made, stage=None, train=True)
    assert found.relative_error <= 1e-12
    assert len(found.residuals) == 9
    assert found.plain_error is None  # shapes change inside the stage


def test_functions_of_ones_own(x64):
    """Three linear residuals, for which c_l = (1 + A_1)ᵀ … (1 + A_{l-1})ᵀ A_lᵀ g."""
    rng = np.random.default_rng(0)
    a = 0.3 * rng.normal(size=(3, 5, 5))
    x1, g, one = rng.normal(size=5), rng.normal(size=5), np.eye(5)
    found = gradient_identity_of(x1, [lambda x, a=a: x @ a.T for a in a], lambda x: x @ g)
    terms = [a[0].T @ g, (one + a[0]).T @ a[1].T @ g, (one + a[0]).T @ (one + a[1]).T @ a[2].T @ g]
    np.testing.assert_allclose(found.residuals, terms, rtol=1e-12)
    np.testing.assert_allclose(found.identity, g, rtol=1e-12)
    assert found.relative_error <= 1e-14


def test_float32_agrees_to_its_rounding():
    for name in ("resnet20_v2", "densenet_bc_40_12"):
        assert gradient_identity(*make(*NETWORKS[name], jnp.float32), stage=0, train=True).relative_error <= 1e-5


def test_what_has_no_shortcuts_or_no_such_stage_is_refused():
    image, label = jnp.zeros((1, 32, 32, 3)), jnp.zeros(1, int)
    for model, name in ((plain20(), "PlainNet"), (vgg11(), "VGG")):
        with pytest.raises(ValueError, match=f"{name} has none"):
            unroll(model, {}, image, label, stage=0)
    with pytest.raises(ValueError, match="stage must be from 0 to 2; given 3"):
        unroll(resnet20(), {}, image, label, stage=3)
    with pytest.raises(ValueError, match="stage 0 to 2; given None"):
        unroll(densenet_bc_40_12(), {}, image, label, stage=None)
    with pytest.raises(ValueError, match=r"drop_path .* must be 0, not 0\.5"):
        unroll(resnet20(drop_path=0.5), {}, image, label, stage=0, train=True)


@pytest.mark.slow
@pytest.mark.parametrize("arch", WHOLE)
def test_published_networks(arch, x64, llvm):
    """Every stage in float64, the first in evaluation and float32 too. Batch statistics are over 16 values, or 64."""
    if arch.startswith("resnet"):  # few programs, each run more than a hundred times
        llvm(1)
    model = WHOLE[arch](num_classes=10)
    size = 64 if model.stem_type == "imagenet" else 16
    made = make(model, size, jnp.float64)
    for stage in range(len(model.stage_sizes if hasattr(model, "stage_sizes") else model.block_sizes)):
        assert gradient_identity(*made, stage=stage, train=True).relative_error <= 1e-12
    assert gradient_identity(*made, stage=0, train=False).relative_error <= 1e-12
    assert gradient_identity(*make(model, size, jnp.float32), stage=0, train=True).relative_error <= 1e-5


MEMORY = """
from pathlib import Path
from test_gradient_identity import gradient_identity, jnp, make
from resnet_flax import resnet1001_v2

made = make(resnet1001_v2(num_classes=10), 32, jnp.float32, batch=8)
assert gradient_identity(*made, stage=0, train=True).relative_error <= 1e-5
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux's /proc")
def test_a_thousand_layers_fit_in_four_gigabytes(all_of_llvm):
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # In KiB. ru_maxrss of getrusage would include the memory of the parent process.
    assert int(done.stdout) * 1024 <= 4e9
