"""The pure steps: their updates, traces and types."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from layers_flax import target_backend
from resnet_flax import plain20, resnet20, vgg11
from training_flax import (
    LossScale,
    TrainConfig,
    init_state,
    learning_rate,
    make_eval_step,
    make_optimizer,
    make_train_step,
    normalise,
)
from training_flax.learn.averages import averaging_rate

FUSED_BY_MLIR = True
CONFIG = TrainConfig("resnet20", recipe="quick-digits", lr=0.1, momentum=0.9, weight_decay=0.01)


def draw_batch(size=8, pixels=8):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((size, pixels, pixels, 3)), jnp.float32)
    return images, jnp.asarray(rng.integers(0, 10, size), jnp.int32)


def start(model, config=CONFIG, total_steps=20):
    optimizer = make_optimizer(config, total_steps)
    images, labels = draw_batch()
    state = init_state(model, optimizer, jax.random.key(0), images)
    return state, make_train_step(model, optimizer), images, labels


def test_the_rate_rises_over_a_tenth_and_falls_by_a_cosine():
    rate = learning_rate(CONFIG, 100)
    rates = np.array([float(rate(step)) for step in range(100)])
    np.testing.assert_allclose(rates[:11], 0.01 * np.arange(11), rtol=1e-5)
    np.testing.assert_allclose(rates[10:], 0.05 * (1 + np.cos(np.pi * np.arange(90) / 90)), rtol=1e-4, atol=1e-6)


def test_three_steps_are_nesterovs_with_decay_of_kernels_alone(x64):
    """Updates follow the recurrences v ← μ v + g, w ← w - η (g + μ v), where g includes λ w for kernels."""
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


@pytest.mark.slow
def test_a_step_is_traced_and_compiled_once():
    state, step, images, labels = start(resnet20())
    step = jax.jit(chex.assert_max_traces(step, 1), donate_argnums=0)
    for _ in range(3):
        state, metrics = step(state, images, labels)
    assert int(state.step) == 3
    assert step._cache_size() == 1
    assert np.isfinite(metrics.loss)


@pytest.mark.slow
def test_label_smoothing_is_the_cross_entropy_with_smoothed_targets(x64):
    """One step changes the parameters by the gradient for optax's smoothed labels."""
    model = plain20(width=2, param_dtype=jnp.float64)
    images, labels = draw_batch()
    images = images.astype(jnp.float64)
    optimizer = optax.sgd(1.0)
    state = init_state(model, optimizer, jax.random.key(0), images)
    after, metrics = jax.jit(make_train_step(model, optimizer, label_smoothing=0.2))(state, images, labels)

    def loss(params, smoothing):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        targets = optax.smooth_labels(jax.nn.one_hot(labels, 10), smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean()

    grads = jax.jit(jax.grad(loss))(state.params, 0.2)
    moved = jax.tree.map(jnp.subtract, state.params, after.params)
    chex.assert_trees_all_close(moved, grads, rtol=1e-9, atol=1e-12)
    assert float(metrics.loss) == pytest.approx(float(loss(state.params, 0.0)), rel=1e-12)


@pytest.mark.slow
def test_a_step_is_pure():
    state, step, images, labels = start(resnet20(width=4))
    step = jax.jit(step)
    chex.assert_trees_all_equal(step(state, images, labels), step(state, images, labels))


@pytest.mark.slow
def test_a_network_learns_a_batch_by_heart():
    state, step, images, labels = start(resnet20(width=4), total_steps=60)
    step = jax.jit(step, donate_argnums=0)
    for _ in range(60):
        state, metrics = step(state, images, labels)
    assert float(metrics.accuracy) == 1.0
    assert float(metrics.loss) < 0.1


@pytest.mark.slow
def test_dropout_changes_from_step_to_step():
    """A learning rate of 0 changes nothing but the step, and with it dropout's mask."""
    model = vgg11(width=2, num_classes=10, dropout=0.5)
    optimizer = make_optimizer(TrainConfig("vgg11", lr=1e-30, weight_decay=0.0), 20)
    images, labels = draw_batch(pixels=32)
    state = init_state(model, optimizer, jax.random.key(0), images)
    step = jax.jit(make_train_step(model, optimizer))
    first, metrics = step(state, images, labels)
    _, later = step(first, images, labels)
    chex.assert_trees_all_close(first.params, state.params, rtol=0, atol=1e-20)
    assert float(metrics.loss) != float(later.loss)


@pytest.mark.slow
def test_parameters_and_statistics_stay_float32_under_bfloat16():
    state, step, images, labels = start(resnet20(width=4, dtype=jnp.bfloat16))
    state, metrics = jax.jit(step)(state, images, labels)
    types = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats, metrics.loss, metrics.accuracy))}
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


OPTIONS = {
    "plain": {},
    "averaged": dict(ema=0.9),
    "accumulated": dict(accumulate=4),
    "scaled": dict(scaled=True),
    "all": dict(ema=0.9, accumulate=2, scaled=True),
}


def made(model, ema=0.0, accumulate=1, scaled=False, **options):
    """Returns a state after two steps, and the step."""
    optimizer = make_optimizer(CONFIG, 20)
    images, labels = draw_batch()
    state = init_state(model, optimizer, jax.random.key(0), images, ema=bool(ema), loss_scaling=scaled)
    step = make_train_step(model, optimizer, ema=ema, accumulate=accumulate, **options)
    return state, step, images, labels


def as_arrays(state):
    return jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jit", "pmap"])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(name, poison, kind):
    model = resnet20(width=2, axis_name="data" if kind == "pmap" else None)
    state, step, images, labels = made(model, **OPTIONS[name], axis_name="data" if kind == "pmap" else None)
    if kind == "pmap":  # one device runs the same program as any number
        mapped = jax.pmap(step, "data", in_axes=(None, 0, 0), out_axes=None)

        def step(state, images, labels):
            return mapped(state, images[None], labels[None])

    step = jax.jit(step) if kind == "jit" else step
    for _ in range(2):
        state, metrics = step(state, images, labels)
    assert int(state.skipped) == int(metrics.skipped_in_row) == 0
    before = as_arrays(state)
    for number in (1, 2):
        state, metrics = step(state, images.at[3, 0, 0, 0].set(poison), labels)
        after = as_arrays(state)
        assert (after.step, after.skipped, after.skipped_in_row) == (2 + number, number, number)
        assert int(metrics.skipped_in_row) == number
        for field in ("params", "batch_stats", "opt_state", "ema", "key"):
            chex.assert_trees_all_equal(getattr(after, field), getattr(before, field))
        if state.loss_scale is not None:
            assert after.loss_scale == LossScale(before.loss_scale.scale / 2**number, 0)
    state, metrics = step(state, images, labels)
    assert (int(state.skipped), int(state.skipped_in_row), int(metrics.skipped_in_row)) == (2, 0, 0)
    assert not np.array_equal(state.params["fc"]["kernel"], before.params["fc"]["kernel"])


@pytest.mark.slow
def test_averaged_weights_are_the_recurrence(x64):
    state, step, images, labels = made(resnet20(width=2), ema=0.75)
    step = jax.jit(step)
    average = {"params": state.params, "batch_stats": state.batch_stats}
    for _ in range(3):
        state, _ = step(state, images, labels)
        new = {"params": state.params, "batch_stats": state.batch_stats}
        average = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, average, new)
    chex.assert_trees_all_close(state.ema, average, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_decay_of_averages_rises_as_timms(x64, decay):
    """1 - (1 + n)^(-2/3), at most `decay`: ModelEmaV3.get_decay(n + 1) of timm 1.0.31."""
    steps = np.arange(2000)
    expected = np.minimum(1 - (1.0 + steps) ** (-2 / 3), decay)
    for dtype, error in ((jnp.float64, 1e-15), (jnp.float32, 2e-7)):
        rates = averaging_rate(jnp.arange(1, 2001), decay, dtype)
        assert rates.dtype == dtype
        np.testing.assert_allclose(rates, 1 - expected, rtol=error * 2000, atol=error)
    assert float(averaging_rate(jnp.int32(10**8), decay)) == np.float32(1 - decay)


@pytest.mark.slow
def test_a_short_average_forgets_the_initial_weights():
    """Without the warm-up, after ten steps 99.9 % of the average are the initial weights; with it none are."""
    state, step, images, labels = made(resnet20(width=2), ema=0.9999, ema_warmup=True)
    other = state._replace(ema=jax.tree.map(lambda leaf: leaf + 100, state.ema))
    step = jax.jit(step)
    for _ in range(3):
        state, _ = step(state, images, labels)
        other, _ = step(other, images, labels)
    chex.assert_trees_all_equal(state.ema, other.ema)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(state.ema, {"params": state.params, "batch_stats": state.batch_stats})


@pytest.mark.slow
def test_skipped_steps_do_not_warm_the_average_up():
    """An average over finite steps is the same whether bad batches came between them or not."""
    state, step, images, labels = made(resnet20(width=2), ema=0.99, ema_warmup=True)
    step, other = jax.jit(step), state
    for number in range(4):
        state, _ = step(state, images, labels)
        if number in (0, 2):
            other, _ = step(other, images * jnp.nan, labels)
        other, _ = step(other, images, labels)
    assert (int(other.step), int(other.skipped)) == (6, 2)
    chex.assert_trees_all_equal(as_arrays(state).ema, as_arrays(other).ema)


@pytest.mark.slow
@pytest.mark.parametrize("ema_warmup", [False, True])
def test_what_is_frozen_stays_bit_for_bit_in_the_average(ema_warmup):
    state, step, images, labels = made(resnet20(width=2), freeze=("conv1/*", "bn1/*"), ema=0.7, ema_warmup=ema_warmup)
    step, after = jax.jit(step), state
    for _ in range(5):
        after, _ = step(after, images, labels)
    for name in ("params", "batch_stats"):
        for module in {"conv1", "bn1"} & state.ema[name].keys():
            chex.assert_trees_all_equal(after.ema[name][module], state.ema[name][module])
    assert not np.array_equal(after.ema["params"]["fc"]["kernel"], state.ema["params"]["fc"]["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["images", "parameters", "statistics", "labels"])
def test_a_run_goes_on_after_values_that_are_not_finite(where):
    """A bad batch, or a bit that flips in memory for one step: state and counters are those of a skipped step."""
    state, step, images, labels = made(resnet20(width=2, dtype=jnp.float16), scaled=True, ema=0.9, ema_warmup=True)
    step = jax.jit(step)
    for _ in range(2):
        state, _ = step(state, images, labels)
    bad = {"images": images, "labels": jax.nn.one_hot(labels, 10), "state": state}
    if where == "parameters":
        bad["state"] = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
    elif where == "statistics":
        # In training BatchNorm reads its running statistics only to move them.
        bad["state"] = state._replace(batch_stats=jax.tree.map(lambda leaf: leaf * jnp.inf, state.batch_stats))
    else:
        bad[where] = bad[where] * jnp.nan
    before = as_arrays(bad["state"])
    after, metrics = step(bad["state"], bad["images"], bad["labels"])
    assert (int(after.step), int(after.skipped), int(metrics.skipped_in_row)) == (3, 1, 1)
    assert float(after.loss_scale.scale) == float(state.loss_scale.scale) / 2
    for field in ("params", "batch_stats", "opt_state", "ema", "key"):
        chex.assert_trees_all_equal(getattr(as_arrays(after), field), getattr(before, field))
    good = after._replace(params=state.params, batch_stats=state.batch_stats)
    good, metrics = step(good, images, labels)
    assert (int(good.step), int(good.skipped), int(good.skipped_in_row)) == (4, 1, 0)
    assert np.isfinite(metrics.loss)


def test_images_whose_logits_are_nan_have_no_prediction():
    model = resnet20(width=2)
    state, _, images, labels = start(model)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    result = jax.jit(make_eval_step(model))(variables, images.at[2].set(jnp.nan), labels)
    assert (np.asarray(result.prediction) == -1).tolist() == [number == 2 for number in range(8)]
    assert np.isnan(result.loss[2])
    poisoned = {**variables, "params": jax.tree.map(lambda leaf: leaf * jnp.nan, state.params)}
    assert (jax.jit(make_eval_step(model))(poisoned, images, labels).prediction == -1).all()


class Logits(nn.Module):
    """A network whose images are its logits."""

    num_classes: int = 4

    def __call__(self, x, train=False):
        return x


RANKED = [
    ([4.0, 3.0, 2.0, 1.0], 0, 0, 0),
    ([4.0, 3.0, 2.0, 1.0], 3, 0, 3),
    ([0.0, 0.0, 0.0, 0.0], 0, 0, 0),  # of equal logits `argmax` takes the first
    ([0.0, 0.0, 0.0, 0.0], 2, 0, 2),
    ([1.0, 5.0, 5.0, 1.0], 2, 1, 1),
    ([1.0, 5.0, 5.0, 1.0], 0, 1, 2),
    ([-1e30, 1e30, 0.0, 2.0], 0, 1, 3),
    ([0.0, np.nan, 0.0, 0.0], 0, -1, 4),
    ([np.nan] * 4, 1, -1, 4),
    ([0.0, -np.inf, 1.0, 0.0], 1, 2, 3),
]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_probabilities_and_ranks(dtype, x64):
    """Rank 0 is a right prediction, also among equal logits; a NaN gives the true class no rank among the first."""
    logits, labels, predictions, ranks = (np.array(values) for values in zip(*RANKED, strict=True))
    result = jax.jit(make_eval_step(Logits()))({}, jnp.asarray(logits, dtype), jnp.asarray(labels, jnp.int32))
    np.testing.assert_array_equal(result.prediction, predictions)
    np.testing.assert_array_equal(result.rank, ranks)
    np.testing.assert_array_equal(result.rank == 0, predictions == labels)
    assert result.probability.dtype == dtype
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    expected = (shares / shares.sum(-1, keepdims=True)).max(-1)
    np.testing.assert_allclose(result.probability, expected, rtol=8 * jnp.finfo(dtype).eps)


@pytest.mark.slow
def test_accumulated_gradients_are_the_mean_over_the_pieces(x64):
    """Without batch statistics micro-batches are independent, so the step equals that of the whole batch."""
    model = resnet20(width=2, param_dtype=jnp.float64, frozen_batch_norm=True)
    state, whole, images, labels = made(model)
    images = images.astype(jnp.float64)
    _, pieces, *_ = made(model, accumulate=4)
    expected, expected_metrics = jax.jit(whole)(state, images, labels)
    after, metrics = jax.jit(pieces)(state, images, labels)
    chex.assert_trees_all_close(after.params, expected.params, rtol=1e-11, atol=1e-14)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=1e-12)


@pytest.mark.slow
def test_pieces_see_batch_norms_statistics_one_after_the_other():
    state, step, images, labels = made(resnet20(width=2), accumulate=2)
    after, _ = jax.jit(step)(state, images, labels)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    for piece in (images[0::2], images[1::2]):
        _, updates = resnet20(width=2).apply(variables, piece, train=True, mutable=["batch_stats"])
        variables = {**variables, **updates}
    chex.assert_trees_all_close(after.batch_stats, variables["batch_stats"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("decay", "pieces"), [(0.0, 1), (0.9, 1), (0.5, 2)])
def test_running_statistics_decay_as_told(decay, pieces, x64):
    """running ← decay · running + (1 - decay) · batch, for each piece of a batch in turn."""
    state, step, images, labels = made(
        resnet20(width=2, param_dtype=jnp.float64), accumulate=pieces, batch_norm_decay=decay
    )
    images = images.astype(jnp.float64)
    after, _ = jax.jit(step)(state, images, labels)
    mean, variance = (np.asarray(state.batch_stats["bn1"][name]) for name in ("mean", "var"))
    for piece in range(pieces):
        maps = jax.lax.conv_general_dilated(
            *(images[piece::pieces], state.params["conv1"]["kernel"], (1, 1), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        of_batch = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
        mean, variance = (decay * old + (1 - decay) * new for old, new in zip((mean, variance), of_batch, strict=True))
    # The layer's own average holds a tenth of the batch's, and rounds in float64: the error is ten times its rounding.
    np.testing.assert_allclose(after.batch_stats["bn1"]["mean"], mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(after.batch_stats["bn1"]["var"], variance, rtol=1e-13)


def test_pieces_are_in_a_loop_but_on_the_cpu():
    """Micro-batches run in a loop except on the CPU, where gradients of convolutions in loops are many times slower."""

    def loops():
        state, step, images, labels = made(resnet20(width=2), accumulate=2)
        return jax.jit(step).lower(state, images, labels).as_text().count("stablehlo.while")

    for backend, expected in (("cpu", 0), ("gpu", 1)):
        with target_backend(backend):
            assert loops() == expected, backend


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, dict(ema=0.5), dict(accumulate=2)])
def test_what_is_frozen_stays_bit_for_bit(options):
    patterns = ("conv1/*", "bn1/*", "layer1_*")
    state, step, images, labels = made(resnet20(width=2), freeze=patterns, **options)
    state = state._replace(params=jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(-0.0), state.params))
    step = jax.jit(step)
    after = state
    for _ in range(3):
        after, _ = step(after, images, labels)
    before, after = as_arrays(state), as_arrays(after)
    for name in ("conv1", "bn1", "layer1_0", "layer1_2", "layer2_0", "fc"):
        frozen = not name.startswith(("layer2", "fc"))
        for field in ("params", "batch_stats"):
            old, new = getattr(before, field).get(name, {}), getattr(after, field).get(name, {})
            for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
                assert (a.tobytes() == b.tobytes()) == frozen, (field, name)


@pytest.mark.slow
def test_loss_scaling_changes_no_gradient_and_doubles_after_enough_good_steps(x64, monkeypatch):
    monkeypatch.setattr("training_flax.learn.steps.STEPS_UNTIL_DOUBLED", 3)
    model = resnet20(width=2, param_dtype=jnp.float64)
    plain, step, images, labels = made(model)
    images = images.astype(jnp.float64)
    scaled, scaled_step, *_ = made(model, scaled=True)
    step, scaled_step = jax.jit(step), jax.jit(scaled_step)
    scales = []
    for _ in range(4):
        plain, metrics = step(plain, images, labels)
        scaled, scaled_metrics = scaled_step(scaled, images, labels)
        scales.append(float(scaled.loss_scale.scale))
    # Powers of two change only the rounding of sums.
    chex.assert_trees_all_close(scaled.params, plain.params, rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(scaled_metrics, metrics, rtol=1e-9)
    assert scales == [2.0**15, 2.0**15, 2.0**16, 2.0**16]


@pytest.mark.slow
def test_float16_learns_with_a_loss_scale():
    state, step, images, labels = made(resnet20(width=4, dtype=jnp.float16), scaled=True)
    step = jax.jit(step)
    losses = []
    for _ in range(15):
        state, metrics = step(state, images, labels)
        losses.append(float(metrics.loss))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, metrics.loss))} == {jnp.dtype(jnp.float32)}
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_binary_loss_is_each_classs_own(x64):
    model = plain20(width=2, param_dtype=jnp.float64)
    state, _, images, labels = made(model)
    images, optimizer = images.astype(jnp.float64), optax.sgd(1.0)
    state = state._replace(opt_state=optimizer.init(state.params))
    after, metrics = jax.jit(make_train_step(model, optimizer, loss="binary"))(state, images, labels)

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        here = jax.nn.one_hot(labels, 10)
        return -(here * jax.nn.log_sigmoid(logits) + (1 - here) * jax.nn.log_sigmoid(-logits)).mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    assert float(metrics.loss) == pytest.approx(float(value), rel=1e-12)
    moved = jax.tree.map(jnp.subtract, state.params, after.params)
    chex.assert_trees_all_close(moved, grads, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_targets_may_be_shares():
    state, step, images, labels = made(resnet20(width=2))
    step = jax.jit(step)
    after, metrics = step(state, images, labels)
    same, same_metrics = step(state, images, jax.nn.one_hot(labels, 10))
    chex.assert_trees_all_equal(as_arrays(after), as_arrays(same))
    chex.assert_trees_all_equal(metrics, same_metrics)
