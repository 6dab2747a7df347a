"""The training step and the evaluation step: pure functions of explicit state."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from common_flax.renamed import renamed_keyword
from layers_flax.autodiff.backend import backend
from training_flax.learn.averages import averaged, averaging_rate
from training_flax.learn.freeze import check_patterns, frozen_leaves
from training_flax.learn.state import EvalResult, LossScale, TrainMetrics, TrainState

STEPS_UNTIL_DOUBLED = 2000


@partial(renamed_keyword, optimiser="optimizer")
def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    loss: str = "softmax",
    accumulate: int = 1,
    ema: float = 0.0,
    ema_warmup: bool = False,
    freeze: Sequence[str] = (),
    axis_name: str | None = None,
    reduce_dtype: Any = None,
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, TrainMetrics]]:
    """Makes the pure function (state, images, labels) → (state, metrics) of one optimizer step.

    Images are normalised, (batch, height, width, channels); labels are (batch,) integers or (batch, classes) shares.
    Compile the step with `jax.jit(step, donate_argnums=0, compiler_options=compiler_options())`. If the loss, the
    gradient or the new state is not finite, the step changes only the counters `step`, `skipped`, `skipped_in_row` and
    the loss scale.

    Args:
        model: any network of either family.
        optimizer: any of Optax's.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al.,
            arXiv:1512.00567, section 7). The loss in the metrics is without it.
        loss: "softmax", cross-entropy over classes; or "binary", the mean over classes of binary cross-entropies, in
            which a class with a share over 0.2 counts as present (Wightman 2021, section 3).
        accumulate: micro-batches per batch, whose gradients are averaged; must divide the batch size. Micro-batch j has
            the examples j, j + accumulate, …, so that each device has a share of each.
        ema: decay of the moving average at each step, if the state has one.
        ema_warmup: the average begins with the weights after the first step, and the decay rises to `ema`, see
            `averaging_rate`. Without it the initial weights have a share of ema ** steps in the average.
        freeze: patterns of parameters and statistics that stay the same, bit for bit, see `frozen_leaves`.
        axis_name: the mapped axis that the batch is sharded over (`pmap`, `shard_map`), if any. A model with the same
            `axis_name` normalises by the whole batch, a model without by each device's share.
        reduce_dtype: the type in which the members of that axis add their gradients; None is the parameters' own.

    The step raises ValueError, when it is first called or traced, for a pattern that matches no parameter of the state.
    """
    # A model without `axis_name` takes each device's share for a batch of its own: its statistics differ, and it would
    # drop the same units on each.
    members_apart = axis_name is not None and getattr(model, "axis_name", None) is None

    def objective(params, batch_stats, images, targets, key, scale):
        params = jax.tree.map(
            lambda frozen, leaf: lax.stop_gradient(leaf) if frozen else leaf, frozen_leaves(params, freeze), params
        )
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        plain = _loss(logits, targets, loss)
        smooth = _loss(logits, optax.smooth_labels(targets, label_smoothing), loss)
        right = (logits.argmax(-1) == targets.argmax(-1)).mean(dtype=plain.dtype)
        return scale * smooth, (plain, right, updates.get("batch_stats", batch_stats))

    gradient_of = jax.grad(objective, has_aux=True)

    def gradients(state: TrainState, images: jax.Array, targets: jax.Array, scale: Any):
        """Returns the batch's gradient, loss, accuracy and new statistics."""
        key = jax.random.fold_in(state.key, state.step)
        if members_apart:
            key = jax.random.fold_in(key, lax.axis_index(axis_name))
        if accumulate == 1:
            grads, (plain, right, stats) = gradient_of(state.params, state.batch_stats, images, targets, key, scale)
            return grads, plain, right, stats

        def micro_step(carry, inputs):
            total, stats = carry
            number, images, targets = inputs
            grads, (plain, right, stats) = gradient_of(
                state.params, stats, images, targets, jax.random.fold_in(key, number), scale
            )
            return (jax.tree.map(jnp.add, total, grads), stats), (plain, right)

        batches = (jnp.arange(accumulate), _micro_batches(images, accumulate), _micro_batches(targets, accumulate))
        start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats)
        # On the CPU, gradients of convolutions with stride 2 or groups take 16 times as long inside a loop (jax 0.10).
        unrolled = backend() == "cpu"
        (total, stats), (plain, right) = lax.scan(micro_step, start, batches, unroll=accumulate if unrolled else 1)
        return jax.tree.map(lambda leaf: leaf / accumulate, total), plain.mean(), right.mean(), stats

    def step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, TrainMetrics]:
        check_patterns(state.params, freeze)
        dtype = _widest_type(state.params)
        targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, model.num_classes, dtype=dtype)
        scale = 1.0 if state.loss_scale is None else state.loss_scale.scale
        grads, plain, right, stats = gradients(state, images, targets, scale)
        if axis_name is not None:
            sent = grads if reduce_dtype is None else jax.tree.map(lambda leaf: leaf.astype(reduce_dtype), grads)
            sent, plain, right = lax.pmean((sent, plain, right), axis_name)
            grads = jax.tree.map(lambda leaf, whole: leaf.astype(whole.dtype), sent, grads)
            stats = lax.pmean(stats, axis_name) if members_apart else stats
        grads = jax.tree.map(lambda leaf: leaf / scale, grads)
        norm = jnp.sqrt(_sum_of_squares(grads))
        finite = jnp.isfinite(norm) & jnp.isfinite(plain)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = _thaw(optax.apply_updates(state.params, updates), state.params, freeze)
        stats = _thaw(stats, state.batch_stats, freeze)
        new = {"params": params, "batch_stats": stats}
        average = None
        if state.ema is not None:
            rate = averaging_rate(state.step - state.skipped + 1, ema, dtype) if ema_warmup else 1 - ema
            average = {name: _thaw(averaged(new[name], old, rate), old, freeze) for name, old in state.ema.items()}
        moved = (params, stats, opt_state, average)
        still = (state.params, state.batch_stats, state.opt_state, state.ema)
        # If the learning rate is too high, finite gradients give infinite weights; and the variances of finite
        # activations can be infinite.
        finite &= _all_finite((params, stats))
        params, stats, opt_state, average = _choose(finite, moved, still)
        bad = 1 - finite.astype(jnp.int32)
        after = state._replace(
            step=state.step + 1,
            params=params,
            batch_stats=stats,
            opt_state=opt_state,
            ema=average,
            loss_scale=None if state.loss_scale is None else _rescale(state.loss_scale, finite),
            skipped=state.skipped + bad,
            skipped_in_row=bad * (state.skipped_in_row + 1),
        )
        return after, TrainMetrics(plain, right, norm, jnp.asarray(after.skipped_in_row))

    return step


def _choose(condition: jax.Array, new: Any, old: Any) -> Any:
    """Returns the tree `new` if the condition holds, else `old`."""
    # With `where`, XLA's CPU backend would compile a program for each leaf; with `cond`, accelerators would copy each.
    if backend() == "cpu":
        return lax.cond(condition, lambda new, _: new, lambda _, old: old, new, old)
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def _widest_type(tree: Any) -> Any:
    """Returns the type of a step: float64 if any leaf is, else float32."""
    return jnp.result_type(jnp.float32, *jax.tree.leaves(tree))


def _sum_of_squares(tree: Any, factor: float = 1.0) -> jax.Array:
    """Returns Σ (factor · value)² over all leaves, in float32 or wider.

    On the CPU this is one dot of all leaves, concatenated. One sum per leaf would make half of the programs that XLA
    compiles for a step; and XLA would recompute the sums in each of their consumers, but not a dot. Accelerators sum a
    leaf where they compute it.
    """
    dtype = _widest_type(tree)
    if backend() != "cpu":
        squares = (jnp.square(factor * leaf.astype(dtype)).sum() for leaf in jax.tree.leaves(tree))
        return sum(squares, jnp.zeros((), dtype))
    values = factor * jnp.concatenate([leaf.astype(dtype).ravel() for leaf in jax.tree.leaves(tree)])
    return jnp.dot(values, values, precision="highest")


def _all_finite(tree: Any) -> jax.Array:
    """True if all values are finite, by a sum of squares, scaled down so that finite values cannot overflow."""
    largest = float(jnp.finfo(_widest_type(tree)).max)
    return jnp.isfinite(_sum_of_squares(tree, 2.0**-20 / math.sqrt(largest)))


def _loss(logits: jax.Array, targets: jax.Array, kind: str) -> jax.Array:
    if kind == "softmax":
        return optax.softmax_cross_entropy(logits, targets).mean()
    return optax.sigmoid_binary_cross_entropy(logits, (targets > 0.2).astype(logits.dtype)).mean()


def _micro_batches(x: jax.Array, count: int) -> jax.Array:
    """Reshapes (batch, …) to (count, batch / count, …); row j has every count-th example from j on."""
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)


def _thaw(new: Any, old: Any, freeze: Sequence[str]) -> Any:
    """Returns `new` with the frozen leaves of `old`."""
    if not freeze:
        return new
    return jax.tree.map(lambda frozen, a, b: b if frozen else a, frozen_leaves(old, freeze), new, old)


def _rescale(state: LossScale, finite: jax.Array) -> LossScale:
    good = jnp.where(finite, state.good_steps + 1, 0)
    double = good >= STEPS_UNTIL_DOUBLED
    scale = jnp.where(finite, jnp.where(double, 2 * state.scale, state.scale), jnp.maximum(state.scale / 2, 1.0))
    return LossScale(scale, jnp.where(double, 0, good))


def make_eval_step(model: nn.Module) -> Callable[[Any, jax.Array, jax.Array], EvalResult]:
    """Makes the pure function (variables, images, labels) → `EvalResult`, with running statistics and no dropout."""

    def step(variables: Any, images: jax.Array, labels: jax.Array) -> EvalResult:
        logits: Any = model.apply(variables, images, train=False)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # Among values that are NaN `argmax` takes the first, and class 0 would be right by chance.
        classes = jnp.where(jnp.isnan(logits).any(-1), -1, logits.argmax(-1))
        return EvalResult(loss, classes.astype(jnp.int32))

    return step


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any = jnp.float32) -> jax.Array:
    """Returns (pixel / 255 - mean) / std for images (…, channels) with values from 0 to 255: the input of networks."""
    return (images.astype(dtype) / 255 - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)
