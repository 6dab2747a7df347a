"""One step of training and of evaluation: pure functions of explicit state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from training_flax.config import TrainConfig


class TrainState(NamedTuple):
    """All that training changes. The position in the data follows from `step`, see `batch_indices`."""

    step: jax.Array  # () int32: steps taken so far
    params: Any  # the network's parameters
    batch_stats: Any  # BatchNorm's running averages
    opt_state: optax.OptState  # the optimiser's
    key: jax.Array  # () PRNG key of the run; step t draws dropout from fold_in(key, t)


class TrainMetrics(NamedTuple):
    """What a step says of its batch."""

    loss: jax.Array  # () mean cross-entropy
    accuracy: jax.Array  # () share of images whose largest logit is the label's


class EvalResult(NamedTuple):
    """What a network says of each image."""

    loss: jax.Array  # (batch,) cross-entropy
    prediction: jax.Array  # (batch,) int32, the class of the largest logit


def learning_rate(config: TrainConfig, total_steps: int) -> optax.Schedule:
    """Linear from 0 over the first tenth of the steps, then half a cosine to 0."""
    assert config.lr is not None
    return optax.warmup_cosine_decay_schedule(0.0, config.lr, total_steps // 10, total_steps)


def make_optimiser(config: TrainConfig, total_steps: int) -> optax.GradientTransformation:
    """SGD with Nesterov momentum; kernels alone decay."""

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, kernels),
        optax.sgd(learning_rate(config, total_steps), config.momentum, nesterov=True),
    )


def init_state(
    model: nn.Module, optimiser: optax.GradientTransformation, key: jax.Array, images: jax.Array
) -> TrainState:
    """The state before the first step; of `images` (batch, height, width, channels) only the shape matters."""
    params_key, run_key = jax.random.split(key)
    variables = model.init(params_key, images, train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimiser.init(variables["params"]),
        key=run_key,
    )


def make_train_step(
    model: nn.Module, optimiser: optax.GradientTransformation, *, label_smoothing: float = 0.0
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, TrainMetrics]]:
    """The pure function (state, images, labels) → (state, metrics) of one optimiser step.

    Images are normalised, (batch, height, width, channels), labels (batch,) integers. Compile it with
    `jax.jit(step, donate_argnums=0)`.

    Args:
        model: any network of either family.
        optimiser: any of Optax's.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al.,
            arXiv:1512.00567, section 7). The metrics' loss is told without it.
    """

    def step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, TrainMetrics]:
        def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(state.key, state.step)},
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            evenly = -jax.nn.log_softmax(logits).mean()
            return (1 - label_smoothing) * loss + label_smoothing * evenly, (loss, logits, updates["batch_stats"])

        (_, (loss, logits, batch_stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = TrainMetrics(loss, (logits.argmax(-1) == labels).mean())
        return TrainState(state.step + 1, params, batch_stats, opt_state, state.key), metrics

    return step


def make_eval_step(model: nn.Module) -> Callable[[Any, jax.Array, jax.Array], EvalResult]:
    """The pure function (variables, images, labels) → `EvalResult`, with running statistics and no dropout."""

    def step(variables: Any, images: jax.Array, labels: jax.Array) -> EvalResult:
        logits: Any = model.apply(variables, images, train=False)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return EvalResult(loss, logits.argmax(-1).astype(jnp.int32))

    return step


def normalise(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """(pixel / 255 - mean) / std in float32: what networks see of uint8 images (…, channels)."""
    return (images.astype(jnp.float32) / 255 - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
