"""What both families' `deepen` is tested with: networks trained on digits, and the laws of going deeper."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from theory_flax.experiments.networks import images_of
from theory_flax.experiments.training import train
from training_flax import open_dataset


@lru_cache
def digits(pixels=16, count=256):
    """Normalised digits (count, pixels, pixels, 3), pixels 8, 16 or 32, and their labels."""
    images, labels = images_of(open_dataset("digits"), count)
    step = images.shape[1] // pixels
    return images[:, ::step, ::step], labels


def trained(model, images, labels, steps=10):
    """Variables of a network after a short training."""
    *_, last = train(model, images, labels, steps=steps, every=steps, batch_size=32, learning_rate=0.05)
    assert np.all(np.isfinite(last.metrics.loss))
    return jax.device_get(last.variables)


def moved(model, images):
    """Variables of which no scale, bias or statistic is where it began, without a training."""
    rng = np.random.default_rng(0)

    def near(leaf):
        return leaf if leaf.ndim > 1 else leaf + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)

    variables = jax.device_get(model.init(jax.random.key(0), images[:1]))
    # Variances begin at one and stay positive, means begin at zero.
    stats = jax.tree.map(lambda leaf: np.exp(near(0 * leaf)) if np.all(leaf) else near(leaf), variables["batch_stats"])
    return {"params": jax.tree.map(near, variables["params"]), "batch_stats": stats}


def trained_or_moved(model, images, labels):
    """What a published network is tested with: training those for ImageNet would compile for minutes."""
    return trained(model, images, labels) if model.stem_type == "cifar" else moved(model, images)


def logits_of(model, variables, images, train):
    """Logits of the whole network in one program, as they are used."""
    return np.asarray(
        jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"])[0])(variables, images)
    )


def loss_of(model, variables, images, labels):
    """The training loss as a function of the parameters."""

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss


def old_and_new(deep, shallow):
    """Leaves of `deep` by path, beside those of `shallow` at the same path or None."""
    known = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(shallow)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(deep):
        name = jax.tree_util.keystr(path)
        yield name, np.asarray(leaf), known.get(name)


def step_from(module, model, deeper, variables, images, labels):
    """Parameters after a step of momentum in the network, and in the deeper one with the state deepened (float64)."""
    optimiser = optax.sgd(0.1, 0.9)
    first = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(0).normal(size=leaf.shape)), variables["params"]
    )
    state = optimiser.update(first, optimiser.init(variables["params"]))[1]
    deepened = module.deepen(model, variables, deeper)
    deep_state = module.deepen_state(model, state, deeper, optimiser.init(deepened["params"]))
    after = []
    for network, tree, kept in ((model, variables, state), (deeper, deepened, deep_state)):
        gradient = jax.jit(jax.grad(loss_of(network, tree, images, labels)))(tree["params"])
        updates, _ = optimiser.update(gradient, kept)
        after.append(optax.apply_updates(tree["params"], updates))
    return deepened, *after
