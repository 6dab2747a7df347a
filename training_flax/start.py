"""Weights that a run starts from."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from safetensors import SafetensorError
from safetensors.numpy import load_file

from training_flax.archs import from_torch
from training_flax.job import Job
from training_flax.steps import TrainState


def weights_file(source: Path) -> Path:
    """The file of weights that `source`, a file or the folder of a run, names.

    Raises:
        ValueError: there is none.
    """
    path = source / "model.safetensors" if source.is_dir() else source
    if not path.is_file():
        raise ValueError(f"weights {str(source)!r}: there is no file {str(path)!r}")
    return path


def from_weights(job: Job, state: TrainState) -> TrainState:
    """`state` with the parameters and statistics of `config.weights`, in the averaged weights too."""
    variables, ema = job.devices.replicate(read_weights(job)), None
    if state.ema is not None:
        where = jax.tree.map(lambda leaf: leaf.sharding, state.ema)
        ema = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=where)(variables)
    return state._replace(params=variables["params"], batch_stats=variables["batch_stats"], ema=ema)


def read_weights(job: Job) -> dict[str, Any]:
    """The network's variables out of `config.weights`.

    Raises:
        ValueError: the file cannot be read, or is of another network; the first name that does not fit is told.
    """
    assert job.config.weights is not None
    path = weights_file(job.config.weights)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights {str(path)!r} cannot be read: {error}") from None
    try:
        return dict(from_torch(job.eval_model, tensors))
    except ValueError as error:
        raise ValueError(f"weights {str(path)!r} are not those of {job.config.arch}: {error}") from None
