"""Short trainings by SGD with momentum that give the network and its metrics every few steps."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from common_flax.renamed import renamed_keyword
from training_flax import TrainMetrics, TrainState, batch_indices, make_train_step, start_state
from training_flax.learn.state import run_keys

LearningRate = float | Callable[[int], Any]
"""A number, or a function of the step, like a schedule of Optax."""


class Moment(NamedTuple):
    """The network at one step of its training, and the metrics since the moment before."""

    step: int
    variables: Any  # {"params", "batch_stats"} after this step
    metrics: TrainMetrics | None  # of the steps since the last moment, each (steps,); None before the first
    gradient_norms: np.ndarray | None = None  # (steps, parameter arrays) ‖∂L/∂w‖, in the order of jax.tree.leaves
    weight_norms: np.ndarray | None = None  # the same shape: ‖w‖ before each of these steps


@partial(renamed_keyword, rate="learning_rate")
def train(
    model: nn.Module,
    images: jax.Array,
    labels: jax.Array,
    *,
    steps: int,
    every: int,
    learning_rate: LearningRate = 0.1,
    batch_size: int = 64,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    seed: int = 0,
    variables: Any = None,
) -> Iterator[Moment]:
    """Trains a network once on images in memory; see `make_training`."""
    training = make_training(model, images, labels, batch_size=batch_size, momentum=momentum, weight_decay=weight_decay)
    return training(steps=steps, every=every, learning_rate=learning_rate, seed=seed, variables=variables)


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
    """Makes the training of a network, compiled once for all learning rates and seeds.

    Each step is a compiled program of its own, because inside compiled loops XLA's convolutions on the CPU take 6 to 16
    times as long.

    Args:
        model: any network of either family.
        images: (examples, height, width, channels), normalised, or as `show` takes them.
        labels: (examples,) integers.
        batch_size, momentum, weight_decay: of SGD; all parameters decay, as in He 2015.
        show: a pure function (key, images of a batch) → the images that the network sees.

    Returns:
        The function (steps, every, learning_rate, seed, variables) → moments: the first before the first step, then
        one after `every` steps each. The training starts from `variables`; if they are None, from parameters drawn by
        `seed`. `seed` also draws the order of examples, as in train.py.
    """

    def optimizer(learning_rate: Any) -> optax.GradientTransformation:
        return optax.chain(_note_norms(), optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum))

    def step(state: TrainState, images: jax.Array, labels: jax.Array, batch: jax.Array, learning_rate: jax.Array):
        images, labels = images[batch], labels[batch]
        if show is not None:
            images = show(jax.random.fold_in(state.key, state.step), images)
        return make_train_step(model, optimizer(learning_rate))(state, images, labels)

    seen = jnp.zeros((1, *images.shape[1:]), images.dtype if show is None else jnp.float32)
    start = jax.jit(lambda variables, key: start_state(variables, optimizer(0.0), key))
    step = jax.jit(step, donate_argnums=0)

    def training(
        *, steps: int, every: int, learning_rate: LearningRate = 0.1, seed: int = 0, variables: Any = None
    ) -> Iterator[Moment]:
        params_key, run_key = run_keys(jax.random.key(seed))
        first = model.init(params_key, seen, train=False) if variables is None else jax.tree.map(jnp.array, variables)
        state = start(first, run_key)
        yield Moment(0, _copy(state), None)
        for first in range(0, steps, every):
            noted = []
            for at in range(first, min(first + every, steps)):
                batch = batch_indices(at, batch_size, len(labels), seed)
                now = learning_rate(at) if callable(learning_rate) else learning_rate
                state, metrics = step(state, images, labels, jnp.asarray(batch), jnp.float32(now))
                noted.append((metrics, jnp.copy(state.opt_state[0])))
            metrics, norms = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(noted))
            yield Moment(first + len(noted), _copy(state), metrics, norms[:, 0], norms[:, 1])

    return training


def _copy(state: TrainState) -> Any:
    """Copies the variables of a state, whose buffers the next step donates."""
    return jax.tree.map(jnp.copy, {"params": state.params, "batch_stats": state.batch_stats})


def _note_norms() -> optax.GradientTransformation:
    """Leaves gradients unchanged; the state holds the norms of each parameter's gradient and value, (2, arrays)."""

    def norms(*trees: Any) -> jax.Array:
        return jnp.stack([jnp.stack([optax.tree.norm(leaf) for leaf in jax.tree.leaves(tree)]) for tree in trees])

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return updates, norms(updates, params)

    return optax.GradientTransformation(lambda params: norms(params, params), update)
