"""Short trainings for the claims: SGD with momentum, looked at on the way."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from training_flax import TrainMetrics, TrainState, batch_indices, make_train_step, start_state
from training_flax.learn.state import run_keys

Rate = float | Callable[[int], Any]
"""Of learning: a number, or Optax's schedule of the step."""


class Moment(NamedTuple):
    """Where a training is."""

    step: int
    variables: Any  # {"params", "batch_stats"} after this step
    metrics: TrainMetrics | None  # of the steps since the last moment, each (steps,); None before the first
    gradient_norms: np.ndarray | None = None  # (steps, parameter arrays): ‖∂L/∂w‖, as jax.tree.leaves; None likewise
    weight_norms: np.ndarray | None = None  # the same shape: ‖w‖ before each of these steps


def train(
    model: nn.Module,
    images: jax.Array,
    labels: jax.Array,
    *,
    steps: int,
    every: int,
    rate: Rate = 0.1,
    batch_size: int = 64,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    seed: int = 0,
    variables: Any = None,
) -> Iterator[Moment]:
    """Trains a network once on images in memory, from `variables` or as it is initialised; see `make_training`."""
    training = make_training(model, images, labels, batch_size=batch_size, momentum=momentum, weight_decay=weight_decay)
    return training(steps=steps, every=every, rate=rate, seed=seed, variables=variables)


def make_training(
    model: nn.Module,
    images: jax.Array,
    labels: jax.Array,
    *,
    batch_size: int = 64,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    show: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Callable[..., Iterator[Moment]]:
    """A network's training, compiled once for all rates and seeds.

    A step is a program of its own: in a loop inside of a program XLA's convolutions on the CPU take 6 to 16 times as
    long.

    Args:
        model: any network of either family.
        images: (examples, height, width, channels), normalised, or as `show` takes them.
        labels: (examples,) integers.
        batch_size, momentum, weight_decay: as usual; all parameters decay, as in He 2015.
        show: a pure function (key, images of a batch) → what the network sees of them.

    Returns:
        The function (steps, every, rate, seed, variables) → moments, the first before the first step and one after
        `every` steps each. `seed` draws the initial parameters, if there are no `variables` to start from, and the
        order of examples, which is train.py's.
    """

    def optimiser(rate: Any) -> optax.GradientTransformation:
        return optax.chain(_note_norms(), optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum))

    def step(state: TrainState, images: jax.Array, labels: jax.Array, batch: jax.Array, rate: jax.Array):
        images, labels = images[batch], labels[batch]
        if show is not None:
            images = show(jax.random.fold_in(state.key, state.step), images)
        return make_train_step(model, optimiser(rate))(state, images, labels)

    seen = jnp.zeros((1, *images.shape[1:]), images.dtype if show is None else jnp.float32)
    start = jax.jit(partial(start_state, optimiser=optimiser(0.0)))
    step = jax.jit(step, donate_argnums=0)

    def training(*, steps: int, every: int, rate: Rate = 0.1, seed: int = 0, variables: Any = None) -> Iterator[Moment]:
        params_key, run_key = run_keys(jax.random.key(seed))
        first = model.init(params_key, seen, train=False) if variables is None else jax.tree.map(jnp.array, variables)
        state = start(first, key=run_key)
        yield Moment(0, _copy(state), None)
        for first in range(0, steps, every):
            noted = []
            for at in range(first, min(first + every, steps)):
                batch = batch_indices(at, batch_size, len(labels), seed)
                now = rate(at) if callable(rate) else rate
                state, metrics = step(state, images, labels, jnp.asarray(batch), jnp.float32(now))
                noted.append((metrics, jnp.copy(state.opt_state[0])))
            metrics, norms = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(noted))
            yield Moment(first + len(noted), _copy(state), metrics, norms[:, 0], norms[:, 1])

    return training


def _copy(state: TrainState) -> Any:
    """The variables of a state whose memory the next step gives on."""
    return jax.tree.map(jnp.copy, {"params": state.params, "batch_stats": state.batch_stats})


def _note_norms() -> optax.GradientTransformation:
    """Leaves gradients as they are; its state is the norms of each array's and of the array, (2, arrays)."""

    def norms(*trees: Any) -> jax.Array:
        return jnp.stack([jnp.stack([optax.tree.norm(leaf) for leaf in jax.tree.leaves(tree)]) for tree in trees])

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return updates, norms(updates, params)

    return optax.GradientTransformation(lambda params: norms(params, params), update)
