"""The state that training changes, and the state before the first step."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

FIRST_LOSS_SCALE = 2.0**15


class LossScale(NamedTuple):
    """What a float16 loss is multiplied with, so that small gradients do not vanish (arXiv:1710.03740)."""

    scale: jax.Array  # () float32: halved when a gradient overflows, doubled after enough good steps
    good_steps: jax.Array  # () int32: since it changed


class TrainState(NamedTuple):
    """All that training changes. The position in the data follows from `step`, see `batch_indices`."""

    step: jax.Array  # () int32: batches seen so far
    params: Any  # the network's parameters
    batch_stats: Any  # BatchNorm's running averages
    opt_state: optax.OptState  # the optimiser's
    key: jax.Array  # () PRNG key of the run; step t draws dropout from fold_in(key, t)
    ema: Any = None  # {"params", "batch_stats"}, averaged over the steps, or None
    loss_scale: LossScale | None = None  # in float16, or None
    skipped: jax.Array | int = 0  # () int32: steps whose gradient was not finite, and that changed nothing
    skipped_in_row: jax.Array | int = 0  # () int32: of these, how many up to now


class TrainMetrics(NamedTuple):
    """What a step says of its batch; all are ()."""

    loss: jax.Array  # mean cross-entropy, without label smoothing
    accuracy: jax.Array  # share of images whose largest logit is the (larger) label's
    gradient_norm: jax.Array  # before clipping
    skipped_in_row: jax.Array  # int32


class EvalResult(NamedTuple):
    """What a network says of each image."""

    loss: jax.Array  # (batch,) cross-entropy
    prediction: jax.Array  # (batch,) int32, the class of the largest logit


def init_state(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    key: jax.Array,
    images: jax.Array,
    *,
    ema: bool = False,
    loss_scaling: bool = False,
) -> TrainState:
    """The state before the first step; of `images` (batch, height, width, channels) only the shape matters.

    Call it outside of programs: it hardly compiles anything there, see `Network.init`.

    Args:
        model: any network of either family.
        optimiser: any of Optax's.
        key: the run's PRNG key.
        images: an example batch.
        ema: keep an average of parameters and statistics.
        loss_scaling: keep a loss scale, as float16 needs.
    """
    params_key, run_key = run_keys(key)
    variables = model.init(params_key, images, train=False)
    return start_state(variables, optimiser, run_key, ema=ema, loss_scaling=loss_scaling)


def run_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of a run's key: that of the first parameters, and that of what is drawn in training."""
    params_key, run_key = jax.random.split(key)
    return params_key, run_key


def start_state(
    variables: Mapping[str, Any],
    optimiser: optax.GradientTransformation,
    key: jax.Array,
    *,
    ema: bool = False,
    loss_scaling: bool = False,
) -> TrainState:
    """The state before the first step of a network that has its variables, {"params", "batch_stats"}, already.

    Args:
        variables: drawn, or trained before; their arrays become part of the state.
        optimiser, ema, loss_scaling: as in `init_state`.
        key: of what is drawn in training: dropout, augmentation.
    """

    def zero() -> jax.Array:  # a new array each time: the step donates its buffers, and none may be donated twice
        return jnp.zeros((), jnp.int32)

    return TrainState(
        step=zero(),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=jax.jit(optimiser.init)(variables["params"]),
        key=key,
        ema=jax.jit(partial(jax.tree.map, jnp.copy))(dict(variables)) if ema else None,
        loss_scale=LossScale(jnp.float32(FIRST_LOSS_SCALE), zero()) if loss_scaling else None,
        skipped=zero(),
        skipped_in_row=zero(),
    )
