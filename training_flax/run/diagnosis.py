"""The source of values that are not finite."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict

from layers_flax.nn.normalise import normalise
from training_flax.data.loader import Batch
from training_flax.learn.state import TrainState
from training_flax.run.job import Job
from training_flax.run.programs import make_loader


def first_not_finite(job: Job, state: TrainState, split: Any, batch: Batch) -> str:
    """Names the first non-finite tensor of the next step: in the backward pass, else in the new state.

    Args:
        job: the run.
        state: the state before the step.
        split, batch: the examples, as the training step takes them.
    """
    load, names = make_loader(job), forward_order(job)
    optimizer, own_loss = job.optimizer, job.own.loss

    def step(state: TrainState, split: Any, rows: Batch) -> Any:
        def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            images, targets = load(state.key, split, rows)
            images = normalise(images, job.dataset.mean, job.dataset.std, job.image_dtype)
            variables = {"params": params, "batch_stats": state.batch_stats}
            rngs = {"dropout": jax.random.fold_in(state.key, state.step)}
            logits, updated = job.eval_model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
            usual = optax.sigmoid_binary_cross_entropy if job.dataset.multi_label else optax.softmax_cross_entropy
            losses = usual(logits, targets) if own_loss is None else own_loss(logits, targets)
            return losses.mean(), (logits, updated)

        gradient, (logits, updated) = jax.grad(loss, has_aux=True)(state.params)
        seen = {"value": jnp.zeros(())} if isinstance(optimizer, optax.GradientTransformationExtraArgs) else {}
        updates, _ = optimizer.update(gradient, state.opt_state, state.params, **seen)
        trees = (gradient, updated, optax.apply_updates(state.params, updates))
        return jnp.isfinite(logits).all(), *map(_bad, trees)

    if job.devices.parallel == "pmap":  # batches have a leading axis of devices
        batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    logits, gradient, statistics, params = jax.device_get(jax.jit(step)(state, split, batch))
    modules = [name.rpartition("/")[0] for name in names]
    bad = [name for name in reversed(names) if gradient[name]]
    if bad:
        where = "the logits were not finite already, and " if not logits else ""
        return f"{where}the first gradient on the way back from the loss was that of {bad[0]}"
    bad = [name.removeprefix("batch_stats/") for name in statistics if statistics[name]]
    if bad:
        return f"the first statistics were those of {min(bad, key=lambda name: modules.index(name.rpartition('/')[0]))}"
    bad = [name for name in reversed(names) if params[name]]
    if bad:
        return f"the gradient is finite, and too large for the learning rate: {bad[0]} would not be"
    return "at the last batch all is finite again"


def _bad(tree: Any) -> dict[str, jax.Array]:
    """Tells by name which leaves are not finite."""
    return {name: ~jnp.isfinite(leaf).all() for name, leaf in flatten_dict(tree, sep="/").items()}


def forward_order(job: Job) -> list[str]:
    """Returns the names of the parameters in the order of the forward pass, in which the network creates them."""
    names: list[str] = []

    def init(key: jax.Array) -> None:
        params = job.eval_model.init(key, jnp.zeros((1, *job.dataset.image_shape)), train=False)["params"]
        names.extend(flatten_dict(params, sep="/"))  # within `init`, because the result of eval_shape is sorted

    jax.eval_shape(init, jax.random.key(0))
    return names
