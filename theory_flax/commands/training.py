"""Short trainings for the claims: SGD with momentum, many steps in one program, looked at on the way."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from training_flax import TrainMetrics, TrainState, batch_indices, init_state, make_train_step


class Moment(NamedTuple):
    """Where a training is."""

    step: int
    variables: Any  # {"params", "batch_stats"} after this step
    metrics: TrainMetrics | None  # of the steps since the last moment, each (steps,); None before the first


def train(
    model: nn.Module,
    images: jax.Array,
    labels: jax.Array,
    *,
    steps: int,
    every: int,
    rate: float | optax.Schedule = 0.1,
    batch_size: int = 64,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    seed: int = 0,
    variables: Any = None,
) -> Iterator[Moment]:
    """Trains a network on images in memory, from `variables` or as it is initialised.

    Args:
        model: any network of either family.
        images: (examples, height, width, channels), normalised.
        labels: (examples,) integers.
        steps: of SGD, in the order of examples that train.py has.
        every: a moment is given after so many steps, and before the first.
        rate: of learning, a number or Optax's schedule of the step.
        batch_size, momentum, weight_decay: as usual; all parameters decay, as in He 2015.
        seed: of initialisation and order.
        variables: where to start from.
    """
    optimiser = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum))
    step = make_train_step(model, optimiser)
    state = jax.jit(lambda key: init_state(model, optimiser, key, images[:1]))(jax.random.key(seed))
    if variables is not None:
        params, batch_stats = jax.tree.map(jnp.array, (variables["params"], variables["batch_stats"]))
        state = state._replace(params=params, batch_stats=batch_stats, opt_state=jax.jit(optimiser.init)(params))

    @jax.jit
    def run(state: TrainState, batches: jax.Array) -> tuple[TrainState, TrainMetrics]:
        return jax.lax.scan(lambda state, batch: step(state, images[batch], labels[batch]), state, batches)

    yield Moment(0, {"params": state.params, "batch_stats": state.batch_stats}, None)
    for first in range(0, steps, every):
        count = min(every, steps - first)
        batches = np.stack([batch_indices(first + i, batch_size, len(labels), seed) for i in range(count)])
        state, metrics = run(state, jnp.asarray(batches))
        yield Moment(first + count, {"params": state.params, "batch_stats": state.batch_stats}, jax.device_get(metrics))
