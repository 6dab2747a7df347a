"""Gradients at two inputs and along lines: Balduzzi's theorems, white noise, and the networks of this project."""

import json
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from densenet_flax import densenet_bc_40_12
from resnet_flax import plain20, plain56, resnet20, resnet20_v2, resnet56, vgg11
from theory_flax import (
    FullyConnected,
    autocorrelation,
    gradient_correlations,
    line,
    shattering,
    theorem_correlation,
    wide_correlation,
)
from theory_flax.__main__ import main
from theory_flax.base.unroll import by_blocks
from theory_flax.shattering.claim import noise, white_noise_band
from theory_flax.shattering.fully_connected import GradientCorrelation, line_gradients
from theory_flax.shattering.laws import fit_base, fit_power

LLVM = 1
SEEDS = 12


@cache
def measured(kind, norm, depths, width=512):
    return gradient_correlations(FullyConnected(kind, norm, width=width), depths, seeds=SEEDS, inputs=256)


def misses(found, law):
    """The distance of each correlation from a law, in standard errors."""
    return np.array([(one.value - law(one.depth)) / one.error for one in found])


# Theorems 1 and 2 assume a co-activation of one quarter, which centred networks have.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "base", "depths"), [("plain", 1 / 2, (1, 2, 4, 8)), ("residual", 3 / 4, (1, 2, 4, 8, 16))]
)
def test_correlations_fall_as_the_theorems_say(kind, base, depths):
    found = measured(kind, "centre", depths)
    assert np.abs(misses(found, lambda depth: base**depth)).max() < 3
    fit = fit_base(found)
    error = (fit.high - fit.low) / (2 * 1.96)
    assert abs(fit.value - base) < 3 * error
    assert error < 0.01 * base


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_without_centring_inputs_grow_alike_and_correlations_stay_above_the_theorems(kind):
    found = measured(kind, None, (2, 4, 8))
    network = FullyConnected(kind)
    assert np.abs(misses(found, partial(wide_correlation, network))).max() < 3
    assert (misses(found, partial(theorem_correlation, network))[1:] > 3).all()


def test_with_batch_norm_residual_correlations_fall_as_a_power_of_depth():
    found = measured("residual", "batch", (2, 4, 8, 16), 256)
    assert np.abs(misses(found, partial(wide_correlation, FullyConnected("residual", "batch")))).max() < 3.5
    # The power is -.5 if the variance includes the ReLU's mean, and -.73 if BatchNorm subtracts that mean.
    assert -0.75 < fit_power(found).high < 0
    assert found[-1].value > 10 * theorem_correlation(FullyConnected("residual"), 16)


@pytest.mark.parametrize("norm", ["centre", "batch", None])
def test_units_are_active_at_two_inputs_as_the_laws_assume(norm):
    network = FullyConnected("plain", norm, width=512)
    x = jax.random.normal(jax.random.key(0), (256, 512))
    keys = jax.random.split(jax.random.key(1), 8)
    found = jax.jit(jax.vmap(lambda key: network.run(network.init(key, 512, 6), x)[1]))(keys)
    mean, error = np.mean(found, 0), np.std(found, 0, ddof=1) / np.sqrt(len(keys))
    wide = np.array([wide_correlation(network, depth) for depth in range(7)])
    expected = wide[1:] / wide[:-1] / 2  # a layer's factor is twice the co-activation
    # Finite width adds about 1 / width in each layer.
    assert (np.abs(mean - expected) < 4 * error + np.arange(1, 7) / 512).all()
    assert (np.abs(mean - 0.25) < 0.02).all() == (norm is not None)


def test_what_the_laws_say():
    plain, residual, normal = (FullyConnected(*of) for of in (("plain",), ("residual",), ("residual", "batch")))
    assert theorem_correlation(plain, 3) == 1 / 8
    assert theorem_correlation(residual, 2) == 9 / 16
    assert theorem_correlation(FullyConnected("residual", beta=0.1), 1) == pytest.approx(1.005 / 1.01)
    # The angle between independent inputs is π/2, and after a ReLU arccos 1/π.
    assert wide_correlation(plain, 2) == pytest.approx(0.5 * (1 - np.arccos(1 / np.pi) / np.pi))
    for law in (theorem_correlation, wide_correlation):
        assert law(FullyConnected("residual", "centre"), 5) == pytest.approx(0.75**5)
    doubled = [law(normal, 20000) / law(normal, 10000) for law in (theorem_correlation, wide_correlation)]
    np.testing.assert_allclose(np.log2(doubled), [-1 / 2, -np.pi / (2 * (np.pi - 1))], atol=1e-3)
    assert theorem_correlation(normal, 10000) == pytest.approx(2 / np.sqrt(np.pi * 10000), rel=1e-3)


def test_fits_find_the_law_that_made_the_numbers_within_their_interval():
    rng = np.random.default_rng(0)
    inside = {"base": 0, "power": 0}
    for _ in range(200):
        found = {"base": [], "power": []}
        for depth in (1, 2, 4, 8):
            for law, value in (("base", 0.5**depth), ("power", depth**-0.5)):
                samples = value * (1 + 0.1 * rng.standard_normal(40))
                error = samples.std(ddof=1) / np.sqrt(40)
                found[law].append(GradientCorrelation(depth, samples.mean(), error, samples, np.ones(40)))
        base, power = fit_base(found["base"]), fit_power(found["power"])
        inside["base"] += base.low < 0.5 < base.high
        inside["power"] += power.low < -0.5 < power.high
    # 95 % of 200, minus four standard deviations of a binomial.
    assert min(inside.values()) > 190 - 4 * np.sqrt(200 * 0.95 * 0.05)


def reference(network, weights, x, depth):
    """Computes f and its gradients by NumPy, one layer after another."""
    x0 = x @ weights.stem + weights.bias
    values, rows = x0, np.broadcast_to(weights.stem, (len(x), *weights.stem.shape))  # rows: ∂x_l/∂x
    for index in range(depth):
        centred, scale = values, np.ones(values.shape[1])
        if network.norm is not None:
            centred = values - values.mean(0)
        if network.norm == "batch":
            scale = 1 / np.sqrt(values.var(0) + 1e-5)
        kernel = weights.layers[index, : values.shape[1]]
        active = np.maximum(centred * scale, 0)
        y, through = active @ kernel, (rows * ((centred > 0) * scale)[:, None]) @ kernel
        if network.kind == "plain":
            values, rows = y, through
        elif network.kind == "residual":
            values, rows = values + network.beta * y, rows + network.beta * through
        else:
            values, rows = np.concatenate([values, y], 1), np.concatenate([rows, through], 2)
    head = weights.head[: values.shape[1]]
    return values @ head, rows @ head


@pytest.mark.parametrize("norm", [None, "centre", "batch"])
@pytest.mark.parametrize("kind", ["plain", "residual", "dense"])
def test_networks_are_what_their_formula_says(kind, norm, x64):
    network = FullyConnected(kind, norm, beta=0.3 if kind == "residual" else 1.0, width=7, growth=3)
    weights = network.init(jax.random.key(0), 2, 4, bias=1.0)
    x = jax.random.normal(jax.random.key(1), (5, 2))
    for depth in (1, 4):
        f, gradients = reference(network, jax.tree.map(np.asarray, weights), np.asarray(x), depth)
        np.testing.assert_allclose(network.apply(weights, x, depth), f, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(network.gradients(weights, x, depth), gradients, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(network.apply(weights, x), network.apply(weights, x, 4))


def test_variances_are_he_initialised():
    network = FullyConnected("dense", width=300, growth=50)
    weights = network.init(jax.random.key(0), 400, 3)
    for layer, fan_in in zip(weights.layers, (300, 350, 400), strict=True):
        assert np.var(layer) * fan_in == pytest.approx(2, rel=4 * np.sqrt(2 / layer.size))
    assert np.var(weights.stem) * 400 == pytest.approx(1, rel=4 * np.sqrt(2 / weights.stem.size))


@cache
def lines(kind, norm, beta, seeds=16):
    """Autocorrelations at lags 0 to 10 along [-2, 2], (seeds, 11), of 50 layers."""
    gradients = line_gradients(FullyConnected(kind, norm, beta), (50,), np.linspace(-2, 2, 256), seeds=seeds)[0]
    return np.array([autocorrelation(row, 10) for row in gradients])


def test_fifty_plain_layers_with_batch_norm_give_white_noise():
    found = lines("plain", "batch", 1.0)
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(0)) + 2 * error < white_noise_band(256))[1:].all()


@pytest.mark.slow
def test_fifty_residual_layers_with_small_branches_do_not():
    lag_1 = lines("residual", "batch", 0.1)[:, 1]
    assert lag_1.mean() - 2 * lag_1.std(ddof=1) / np.sqrt(len(lag_1)) > 0.5
    # Smaller branches shatter less.
    assert lag_1.mean() > lines("residual", "batch", 1.0)[:, 1].mean() > lines("plain", "batch", 1.0)[:, 1].max()


def test_autocorrelation_is_the_usual_one():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 3))
    centred = rows - rows.mean(0)
    each = np.array([np.correlate(column, column, "full")[39:] for column in centred.T])
    np.testing.assert_allclose(autocorrelation(rows[:, 0], 10), each[0, :11] / each[0, 0], rtol=1e-12)
    np.testing.assert_allclose(autocorrelation(rows, 10), each.sum(0)[:11] / each.sum(0)[0], rtol=1e-12)
    # The autocorrelation does not depend on scale, sign and offset.
    np.testing.assert_allclose(autocorrelation(-5 * rows + 2, 10), autocorrelation(rows, 10), rtol=1e-12)
    assert np.isnan(autocorrelation(np.full((20, 2), 0.1, np.float32), 3)).all()


def test_noise_is_told_apart():
    white, brown = (np.array([autocorrelation(row, 10) for row in rows]) for rows in noise(256, 400))
    outside = (np.abs(white[:, 1:] + 1 / 256) > white_noise_band(256)).mean()
    # 5 % of 4000 numbers, or a little less, because each sample's own mean is subtracted.
    assert 0.03 < outside < 0.06
    assert np.quantile(brown[:, 1], 0.01) > 0.9


def test_functions_of_ones_own(x64):
    inputs = line(jnp.array([0.0, 1.0]), jnp.array([2.0, -1.0]), 41)
    found = shattering(lambda x: (x**2).sum(), inputs, lags=5)
    np.testing.assert_allclose(found.gradients, 2 * inputs, rtol=1e-12)
    # For numbers at equal distances R_k is a polynomial; the cosine is that of the inputs.
    steps = np.arange(41) - 20
    expected = [(steps[: 41 - k] * steps[k:]).sum() / (steps**2).sum() for k in range(6)]
    np.testing.assert_allclose(found.autocorrelation, expected, rtol=1e-12)
    unit = np.asarray(inputs / jnp.linalg.norm(inputs, axis=1, keepdims=True))
    np.testing.assert_allclose(found.cosines[2], (unit[:-2] * unit[2:]).sum(1).mean(), rtol=1e-12)
    whole = shattering(lambda inputs: (inputs**2).sum(1), inputs, lags=5, batched=True)
    np.testing.assert_array_equal(whole.gradients, found.gradients)
    assert found.band == 1.96 / np.sqrt(41)


NETWORKS = {
    "plain20": plain20(num_classes=5, width=4),
    "resnet20": resnet20(num_classes=5, width=4),
    "resnet20_v2": resnet20_v2(num_classes=5, width=4),
    "densenet_bc_40_12": densenet_bc_40_12(num_classes=5, growth_rate=2),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "train"), [*((name, True) for name in NETWORKS), ("plain20", False)])
def test_by_blocks_is_the_model(name, train, x64):
    model = NETWORKS[name].clone(param_dtype=jnp.float64)
    images = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), images)
    expected = jax.jit(partial(model.apply, train=train, mutable=["batch_stats"]))(variables, images)[0]
    np.testing.assert_allclose(by_blocks(model, variables, train=train)(images), expected, rtol=1e-10)


def lag_1_between_images(model, seeds=3, points=32):
    """Lag-1 autocorrelations of new networks, each between its own two images of smooth noise; (seeds,)."""
    found = []
    for seed in range(seeds):
        coarse, for_weights, projection = jax.random.split(jax.random.key(seed), 3)
        images = jax.image.resize(jax.random.normal(coarse, (2, 4, 4, 3)), (2, 16, 16, 3), "linear")
        logits_of = by_blocks(model, model.init(for_weights, images, train=False), train=True)
        direction = jax.random.normal(projection, (model.num_classes,))
        between = line(images[0], images[1], points)
        found.append(shattering(lambda x, f=logits_of, u=direction: f(x) @ u, between, lags=1, batched=True))
    return np.array([one.autocorrelation[1] for one in found])


@pytest.mark.slow
def test_convolutional_twins_shatter_in_the_same_order():
    small = dict(num_classes=5, width=4)
    pairs = (plain20, plain56), (resnet20, resnet56)
    plain, residual = ([lag_1_between_images(of(**small)) for of in pair] for pair in pairs)
    for without, with_shortcuts in zip(plain, residual, strict=True):
        assert without.max() < with_shortcuts.min()
    assert np.abs(plain[1].mean()) < white_noise_band(32)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="unknown kind 'resnet'; "):
        FullyConnected("resnet")
    with pytest.raises(ValueError, match="unknown norm 'layer'; "):
        FullyConnected("plain", "layer")
    with pytest.raises(ValueError, match="beta scales residuals, which a plain network has none of"):
        FullyConnected("plain", beta=0.5)
    with pytest.raises(ValueError, match="no law is known for kind 'dense'"):
        wide_correlation(FullyConnected("dense"), 3)
    with pytest.raises(ValueError, match="seeds must be at least 2; given 1"):
        gradient_correlations(FullyConnected(), (1,), seeds=1)
    with pytest.raises(ValueError, match="depth must be at least 1; given 0"):
        line_gradients(FullyConnected(), (0, 2), np.linspace(-2, 2, 8))
    with pytest.raises(ValueError, match="lags must be from 0 to 18 for 20 points; given 30"):
        shattering(jnp.sum, jnp.zeros((20, 2)))
    with pytest.raises(ValueError, match=r"f must give a scalar for an input: \(20,\) in all; it gives \(20, 2\)"):
        shattering(jnp.sin, jnp.zeros((20, 2)), lags=3)
    with pytest.raises(ValueError, match=r"a line's ends must have one shape; given \(2,\) and \(3,\)"):
        line(jnp.zeros(2), jnp.zeros(3), 5)
    with pytest.raises(ValueError, match="blocks are known of ResNet, PlainNet and DenseNet; given VGG"):
        by_blocks(vgg11(), {})
    negative = GradientCorrelation(1, -0.01, 0.1, np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="a law is fitted to positive correlations; given -"):
        fit_base([negative])
    with pytest.raises(ValueError, match=r"a power of depth needs two depths or more; given \[1.0\]"):
        fit_power([GradientCorrelation(1, 0.5, 0.1, np.zeros(2), np.ones(2))] * 2)


@pytest.mark.slow
def test_the_command_writes_numbers_and_a_figure(tmp_path, capsys):
    arguments = ["shattering", "--quick", "--seeds", "2", "--arch", "plain20", "resnet20", "--out", str(tmp_path)]
    assert main(arguments) == 0
    said = json.loads((tmp_path / "shattering.json").read_text())["result"]
    assert [one["name"] for one in said["networks"]] == ["plain20", "resnet20"]
    assert said["networks"][0]["mean"][1] < said["networks"][1]["mean"][1]
    assert (tmp_path / "shattering.png").stat().st_size < 150_000
    assert "plain with BatchNorm, 50 layers" in capsys.readouterr().out
