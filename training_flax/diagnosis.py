"""Where a gradient that is not finite comes from."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from training_flax.feed import Batch
from training_flax.job import Job
from training_flax.optimisers import path_name
from training_flax.programs import make_loader
from training_flax.steps import TrainState, normalise


def first_not_finite(job: Job, state: TrainState, part: Any, batch: Batch) -> str:
    """Says which parameter's gradient is the first, on the way back from the loss, that is not finite.

    Args:
        job: the run.
        state: the state that the gradient is taken at.
        part, batch: the examples, as the training step takes them.
    """
    load, names = make_loader(job), forward_order(job)

    def finite(params: Any) -> Any:
        def loss(params: Any) -> tuple[jax.Array, jax.Array]:
            images, targets = load(state.key, part, rows)
            logits, _ = job.eval_model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                normalise(images, job.dataset.mean, job.dataset.std, job.image_dtype),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(state.key, state.step)},
            )
            return optax.softmax_cross_entropy(logits, targets).mean(), jnp.isfinite(logits).all()

        gradient, logits = jax.grad(loss, has_aux=True)(params)
        return logits, {
            path_name(path): jnp.isfinite(leaf).all() for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        }

    rows = batch
    if job.devices.parallel == "pmap":  # a batch has an axis of the devices before its own
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    logits, good = jax.device_get(jax.jit(finite)(state.params))
    bad = [name for name in reversed(names) if not good[name]]
    if not bad:
        return "at the last batch it is finite again"
    where = "the logits were not finite already, and " if not logits else ""
    return f"{where}the first on the way back from the loss was that of {bad[0]}"


def forward_order(job: Job) -> list[str]:
    """Names of the parameters in the order in which the network makes them, which is that of its forward pass."""
    names: list[str] = []

    def init(key: jax.Array) -> None:
        params = job.eval_model.init(key, jnp.zeros((1, *job.dataset.image_shape)), train=False)["params"]
        names.extend(_names(params))

    jax.eval_shape(init, jax.random.key(0))
    return names


def _names(tree: Any, before: str = "") -> list[str]:
    """Paths of the leaves in the order of the dicts, where JAX would sort them."""
    if not isinstance(tree, dict):
        return [before[:-1]]
    return [name for key, value in tree.items() for name in _names(value, f"{before}{key}/")]
