"""The state of a training, and its values before the first step."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from common_flax.renamed import renamed_keyword

FIRST_LOSS_SCALE = 2.0**15


class LossScale(NamedTuple):
    """The factor on a float16 loss that keeps small gradients from vanishing (arXiv:1710.03740)."""

    scale: jax.Array  # () float32: halved when a gradient overflows, doubled after enough finite steps
    good_steps: jax.Array  # () int32: finite steps since the last change


class TrainState(NamedTuple):
    """Everything that training changes. The position in the data follows from `step`, see `batch_indices`."""

    step: jax.Array  # () int32: steps taken so far
    params: Any  # the network's parameters
    batch_stats: Any  # BatchNorm's running averages
    opt_state: optax.OptState  # the optimizer's state
    key: jax.Array  # () PRNG key of the run; step t draws dropout from fold_in(key, t)
    ema: Any = None  # moving average of {"params", "batch_stats"} over the steps, or None
    loss_scale: LossScale | None = None  # for float16, else None
    skipped: jax.Array | int = 0  # () int32: steps that changed nothing, because their values were not finite
    skipped_in_row: jax.Array | int = 0  # () int32: skipped steps since the last finite one


class TrainMetrics(NamedTuple):
    """Metrics of a step on its batch; all are ()."""

    loss: jax.Array  # mean cross-entropy, without label smoothing
    accuracy: jax.Array  # share of images whose largest logit and target are of one class, or whose classes are right
    gradient_norm: jax.Array  # before clipping
    skipped_in_row: jax.Array  # int32


class EvalResult(NamedTuple):
    """Loss and prediction of each image."""

    loss: jax.Array  # (batch,) cross-entropy
    prediction: jax.Array  # (batch,) int32, the class of the largest logit; -1 if a logit is NaN
    probability: jax.Array  # (batch,) softmax of the predicted class; NaN if a logit is
    rank: jax.Array  # (batch,) int32, the classes that come before the true one; all of them if a logit is NaN


@partial(renamed_keyword, optimiser="optimizer")
def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    images: jax.Array,
    *,
    ema: bool = False,
    loss_scaling: bool = False,
) -> TrainState:
    """Makes the state before the first step, with random parameters.

    Call this outside of `jax.jit`, where it compiles hardly anything, see `Network.init`.

    Args:
        model: any network of either family.
        optimizer: any of Optax's.
        key: the run's PRNG key.
        images: (batch, height, width, channels), an example for the shape.
        ema: keep a moving average of parameters and statistics.
        loss_scaling: keep a loss scale, as float16 needs.
    """
    params_key, run_key = run_keys(key)
    variables = model.init(params_key, images, train=False)
    return start_state(variables, optimizer, run_key, ema=ema, loss_scaling=loss_scaling)


def run_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits a run's key into the keys for the initial parameters and for dropout and augmentation in training."""
    params_key, run_key = jax.random.split(key)
    return params_key, run_key


@partial(renamed_keyword, optimiser="optimizer")
def start_state(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    ema: bool = False,
    loss_scaling: bool = False,
) -> TrainState:
    """Makes the state before the first step from variables {"params", "batch_stats"}.

    Args:
        variables: random or trained ones; their arrays become part of the state.
        optimizer, ema, loss_scaling: as in `init_state`.
        key: PRNG key for dropout and augmentation.
    """

    def zero() -> jax.Array:  # a new array at each call, because a buffer cannot be donated twice
        return jnp.zeros((), jnp.int32)

    return TrainState(
        step=zero(),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=jax.jit(optimizer.init)(variables["params"]),
        key=key,
        ema=jax.jit(partial(jax.tree.map, jnp.copy))(dict(variables)) if ema else None,
        loss_scale=LossScale(jnp.float32(FIRST_LOSS_SCALE), zero()) if loss_scaling else None,
        skipped=zero(),
        skipped_in_row=zero(),
    )
