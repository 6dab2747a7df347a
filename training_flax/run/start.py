"""Weights that a run starts from."""

import jax
import jax.numpy as jnp

from training_flax.learn.starting_weights import starting_weights
from training_flax.learn.state import TrainState
from training_flax.run.plan import Job


def from_weights(job: Job, state: TrainState) -> TrainState:
    """`state` with the parameters and statistics of `config.weights`, in the averaged weights too."""
    given = job.arranged(starting_weights(job.config, job.eval_model))
    variables, ema = job.devices.replicate(given), None
    if state.ema is not None:
        where = jax.tree.map(lambda leaf: leaf.sharding, state.ema)
        ema = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=where)(variables)
    return state._replace(params=variables["params"], batch_stats=variables["batch_stats"], ema=ema)
