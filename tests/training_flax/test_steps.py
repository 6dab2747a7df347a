"""The pure steps: what an update is, how often a step is traced, what types it keeps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_flax import plain20, resnet20, vgg11
from training_flax import TrainConfig, init_state, make_eval_step, make_optimiser, make_train_step, normalise
from training_flax.steps import learning_rate

CONFIG = TrainConfig(arch="resnet20", lr=0.1, momentum=0.9, weight_decay=0.01)


def draw_batch(size=8, pixels=8):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((size, pixels, pixels, 3)), jnp.float32)
    return images, jnp.asarray(rng.integers(0, 10, size), jnp.int32)


def start(model, config=CONFIG, total_steps=20):
    optimiser = make_optimiser(config, total_steps)
    images, labels = draw_batch()
    state = jax.jit(lambda key: init_state(model, optimiser, key, images))(jax.random.key(0))
    return state, make_train_step(model, optimiser), images, labels


def test_the_rate_rises_over_a_tenth_and_falls_by_a_cosine():
    rate = learning_rate(CONFIG, 100)
    rates = np.array([float(rate(step)) for step in range(100)])
    np.testing.assert_allclose(rates[:11], 0.01 * np.arange(11), rtol=1e-5)
    np.testing.assert_allclose(rates[10:], 0.05 * (1 + np.cos(np.pi * np.arange(90) / 90)), rtol=1e-4, atol=1e-6)


def test_three_steps_are_nesterovs_with_decay_of_kernels_alone(x64):
    """Against the recurrences written out: v ← μ v + g, w ← w - η (g + μ v), g with λ w for kernels."""
    model = plain20(width=2, param_dtype=jnp.float64)
    state, step, images, labels = start(model)
    images = images.astype(jnp.float64)
    schedule = learning_rate(CONFIG, 20)

    def loss(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)
        return -chosen.mean(), updates["batch_stats"]

    params, stats = state.params, state.batch_stats
    velocity = jax.tree.map(jnp.zeros_like, params)
    for number in range(3):
        (expected_loss, stats), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, stats)
        grads = jax.tree.map(lambda g, w: g + 0.01 * w if w.ndim > 1 else g, grads, params)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        rate = schedule(jnp.int32(number))
        params = jax.tree.map(lambda w, g, v, r=rate: w - r * (g + 0.9 * v), params, grads, velocity)
        state, metrics = jax.jit(step)(state, images, labels)
        assert float(metrics.loss) == pytest.approx(float(expected_loss), rel=1e-12)
    assert int(state.step) == 3
    chex.assert_trees_all_close(state.params, params, rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(state.batch_stats, stats, rtol=1e-9, atol=1e-12)


def test_a_step_is_traced_and_compiled_once():
    state, step, images, labels = start(resnet20())
    step = jax.jit(chex.assert_max_traces(step, 1), donate_argnums=0)
    for _ in range(3):
        state, metrics = step(state, images, labels)
    assert int(state.step) == 3
    assert step._cache_size() == 1
    assert np.isfinite(metrics.loss)


def test_label_smoothing_is_the_cross_entropy_with_smoothed_targets(x64):
    """One step with it moves the parameters as the gradient against optax's smoothed labels says."""
    model = plain20(width=2, param_dtype=jnp.float64)
    images, labels = draw_batch()
    images = images.astype(jnp.float64)
    optimiser = optax.sgd(1.0)
    state = jax.jit(lambda key: init_state(model, optimiser, key, images))(jax.random.key(0))
    after, metrics = jax.jit(make_train_step(model, optimiser, label_smoothing=0.2))(state, images, labels)

    def loss(params, smoothing):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        targets = optax.smooth_labels(jax.nn.one_hot(labels, 10), smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean()

    grads = jax.jit(jax.grad(loss))(state.params, 0.2)
    moved = jax.tree.map(jnp.subtract, state.params, after.params)
    chex.assert_trees_all_close(moved, grads, rtol=1e-9, atol=1e-12)
    assert float(metrics.loss) == pytest.approx(float(loss(state.params, 0.0)), rel=1e-12)


def test_a_step_is_pure():
    state, step, images, labels = start(resnet20(width=4))
    step = jax.jit(step)
    chex.assert_trees_all_equal(step(state, images, labels), step(state, images, labels))


def test_a_network_learns_a_batch_by_heart():
    state, step, images, labels = start(resnet20(width=4), total_steps=60)
    step = jax.jit(step, donate_argnums=0)
    for _ in range(60):
        state, metrics = step(state, images, labels)
    assert float(metrics.accuracy) == 1.0
    assert float(metrics.loss) < 0.1


def test_dropout_changes_from_step_to_step():
    """With a rate of 0 nothing changes but the step, and so dropout's mask."""
    model = vgg11(width=2, num_classes=10, dropout=0.5)
    optimiser = make_optimiser(TrainConfig(arch="vgg11", lr=1e-30, weight_decay=0.0), 20)
    images, labels = draw_batch(pixels=32)
    state = jax.jit(lambda key: init_state(model, optimiser, key, images))(jax.random.key(0))
    step = jax.jit(make_train_step(model, optimiser))
    first, metrics = step(state, images, labels)
    _, later = step(first, images, labels)
    chex.assert_trees_all_close(first.params, state.params, rtol=0, atol=1e-20)
    assert float(metrics.loss) != float(later.loss)


def test_parameters_and_statistics_stay_float32_under_bfloat16():
    state, step, images, labels = start(resnet20(width=4, dtype=jnp.bfloat16))
    state, metrics = jax.jit(step)(state, images, labels)
    types = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats, metrics))}
    assert types == {jnp.dtype(jnp.float32)}


def test_evaluation_uses_running_statistics():
    model = resnet20(width=4)
    state, _, images, labels = start(model)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    step = jax.jit(make_eval_step(model))
    result = step(variables, images, labels)
    assert result.loss.shape == result.prediction.shape == (8,)
    alone = step(variables, images[:1], labels[:1])
    np.testing.assert_allclose(alone.loss, result.loss[:1], rtol=1e-4)


def test_normalise():
    images = jnp.asarray([[[[0, 255, 51]]]], jnp.uint8)
    values = normalise(images, (0.5, 0.5, 0.2), (0.5, 0.25, 1.0))
    np.testing.assert_allclose(values[0, 0, 0], [-1, 2, 0], atol=1e-6)
