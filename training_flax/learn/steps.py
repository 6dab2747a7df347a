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
from layers_flax.nn.batch_norm import BatchNorm
from training_flax.learn.averages import averaged, averaging_rate
from training_flax.learn.class_weights import relative_weights
from training_flax.learn.freeze import check_patterns, frozen_leaves
from training_flax.learn.state import EvalResult, LossScale, TrainMetrics, TrainState

STEPS_UNTIL_DOUBLED = 2000
PRESENT = 0.2  # the binary loss takes a class with a larger share of the target as present

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""A pure function (logits, targets) → losses: logits and targets (batch, classes), losses (batch,)."""


@partial(renamed_keyword, optimiser="optimizer")
def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    loss: str | Loss = "softmax",
    accumulate: int = 1,
    ema: float = 0.0,
    ema_warmup: bool = False,
    batch_norm_decay: float = BatchNorm.momentum,
    freeze: Sequence[str] = (),
    axis_name: str | None = None,
    reduce_dtype: Any = None,
    multi_label: bool = False,
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
        class_weights: a weight for each class, or None: the loss is the weighted mean Σ w·loss / Σ w over the whole
            batch, as by PyTorch's CrossEntropyLoss(weight) for labels, see `relative_weights`. Under the binary loss
            an image has the weight of its class. The loss in the metrics is without them.
        loss: "softmax", cross-entropy over classes; or "binary", the mean over classes of binary cross-entropies, in
            which a class with a share over 0.2 counts as present (Wightman 2021, section 3); or a function of your own
            (logits, targets) → losses (batch,), whose mean is minimised. Targets are shares (batch, classes).
        accumulate: micro-batches per batch, whose gradients are averaged; must divide the batch size. Micro-batch j has
            the examples j, j + accumulate, …, so that each device has a share of each.
        ema: decay of the moving average at each step, if the state has one.
        ema_warmup: the average begins with the weights after the first step, and the decay rises to `ema`, see
            `averaging_rate`. Without it the initial weights have a share of ema ** steps in the average.
        batch_norm_decay: share of BatchNorm's running statistics that stays at each forward pass in training, 1 minus
            PyTorch's momentum. The weights move while the statistics are averaged, so these are of older weights, about
            decay / (1 - decay) steps old; a smaller decay lets them follow, and they then come from fewer images.
        freeze: patterns of parameters and statistics that stay the same, bit for bit, see `frozen_leaves`.
        axis_name: the mapped axis that the batch is sharded over (`pmap`, `shard_map`), if any. A model with the same
            `axis_name` normalises by the whole batch, a model without by each device's share.
        reduce_dtype: the type in which the members of that axis add their gradients; None is the parameters' own.
        multi_label: an image may have none, one or several classes; labels are (batch, classes) of 0 and 1. A class
            weight is then a factor on the loss of images that have the class, as by PyTorch's
            BCEWithLogitsLoss(pos_weight). The accuracy is the share of images with all classes right, those over 0.

    The step raises ValueError, when it is first called or traced, for a pattern that matches no parameter of the state,
    or a loss of your own that does not return a number for each image.

    Raises:
        ValueError: `class_weights` are given with a loss of your own, which has to weigh classes itself; or
            `multi_label` with the softmax loss or label smoothing, which are for one class an image.
    """
    if multi_label and (loss == "softmax" or label_smoothing):
        raise ValueError(f"multi_label needs another loss, without label smoothing; given {loss!r}, {label_smoothing}")
    if callable(loss) and class_weights is not None:
        raise ValueError(f"class_weights are for the losses that have names; given {class_weights} with your own loss")
    # A model without `axis_name` takes each device's share for a batch of its own: its statistics differ, and it would
    # drop the same units on each.
    members_apart = axis_name is not None and getattr(model, "axis_name", None) is None

    def objective(params, batch_stats, images, targets, key, scale, weights):
        params = jax.tree.map(
            lambda frozen, leaf: lax.stop_gradient(leaf) if frozen else leaf, frozen_leaves(params, freeze), params
        )
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        plain = _loss(logits, targets, loss)
        of_one = None if multi_label else targets
        smooth = _loss(logits, optax.smooth_labels(targets, label_smoothing), loss, weights, of_one)
        right = _are_right(logits, targets, multi_label).mean(dtype=plain.dtype)
        stats = _moved_further(updates.get("batch_stats", batch_stats), batch_stats, batch_norm_decay)
        return scale * smooth, (plain, right, stats)

    gradient_of = jax.grad(objective, has_aux=True)

    def gradients(state: TrainState, images: jax.Array, targets: jax.Array, scale: Any):
        """Returns the batch's gradient, loss, accuracy and new statistics."""
        weights = None if class_weights is None else jnp.asarray(class_weights, targets.dtype)
        if class_weights is not None and not multi_label:
            weights = relative_weights(class_weights, targets, axis_name)
        key = jax.random.fold_in(state.key, state.step)
        if members_apart:
            key = jax.random.fold_in(key, lax.axis_index(axis_name))
        if accumulate == 1:
            grads, (plain, right, stats) = gradient_of(
                state.params, state.batch_stats, images, targets, key, scale, weights
            )
            return grads, plain, right, stats

        def micro_step(carry, inputs):
            total, stats = carry
            number, images, targets = inputs
            grads, (plain, right, stats) = gradient_of(
                state.params, stats, images, targets, jax.random.fold_in(key, number), scale, weights
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
        targets = targets.astype(dtype) if multi_label else targets
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

        # Transformations such as `optax.contrib.reduce_on_plateau` look at the loss.
        seen = {"value": plain} if isinstance(optimizer, optax.GradientTransformationExtraArgs) else {}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **seen)
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


def _moved_further(new: Any, old: Any, decay: float) -> Any:
    """Returns running statistics under `decay`, from those that the layers moved under their own."""
    factor = (1 - decay) / (1 - BatchNorm.momentum)
    return new if decay == BatchNorm.momentum else jax.tree.map(lambda new, old: old + factor * (new - old), new, old)


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


def _are_right(logits: jax.Array, targets: jax.Array, multi_label: bool) -> jax.Array:
    if multi_label:
        return ((logits > 0) == (targets > PRESENT)).all(-1)
    return logits.argmax(-1) == targets.argmax(-1)


def _loss(logits: jax.Array, targets: jax.Array, kind: str | Loss, weights: Any = None, plain: Any = None) -> jax.Array:
    """Returns the mean loss; `weights` are of classes, `plain` targets without smoothing, None for several classes."""
    if callable(kind):
        return losses_by(kind, logits, targets).mean()
    if kind == "softmax":
        if weights is None:
            return optax.softmax_cross_entropy(logits, targets).mean()
        return -(weights * targets * jax.nn.log_softmax(logits)).sum(-1).mean()
    losses = optax.sigmoid_binary_cross_entropy(logits, (targets > PRESENT).astype(logits.dtype))
    if plain is None and weights is not None:
        return (losses * jnp.where(targets > PRESENT, weights, 1)).mean()
    return losses.mean() if weights is None else (losses.mean(-1) * (plain @ weights)).mean()


def losses_by(loss: Loss, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the losses (batch,) by a function of the user's; raises ValueError if it returns anything else."""
    losses = jnp.asarray(loss(logits, targets))
    if losses.shape != logits.shape[:1] or not jnp.issubdtype(losses.dtype, jnp.floating):
        raise ValueError(
            f"loss must return a number for each image, of shape {logits.shape[:1]} in floating point; given shape "
            f"{losses.shape} of {losses.dtype}"
        )
    return losses


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


def make_eval_step(model: nn.Module, loss: Loss | None = None) -> Callable[[Any, jax.Array, jax.Array], EvalResult]:
    """Makes the pure function (variables, images, labels) → `EvalResult`, with running statistics and no dropout.

    The loss is the cross-entropy, unless a function (logits, targets) → losses is given.
    """

    def step(variables: Any, images: jax.Array, labels: jax.Array) -> EvalResult:
        logits: Any = model.apply(variables, images, train=False)
        if loss is None:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        else:
            losses = losses_by(loss, logits, jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype))
        # Among values that are NaN `argmax` takes the first, and class 0 would be right by chance.
        lost = jnp.isnan(logits).any(-1)
        classes = jnp.where(lost, -1, logits.argmax(-1))
        probability = jax.nn.softmax(logits).max(-1)
        true = jnp.take_along_axis(logits, labels[:, None], -1)
        # Of equal logits the first counts as larger, as it does for `argmax`: rank 0 is a right prediction.
        before = (logits > true) | ((logits == true) & (jnp.arange(logits.shape[-1]) < labels[:, None]))
        rank = jnp.where(lost, logits.shape[-1], before.sum(-1))
        return EvalResult(losses, classes.astype(jnp.int32), probability, rank.astype(jnp.int32))

    return step
