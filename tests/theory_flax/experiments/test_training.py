"""The claims' trainings: their steps, and the metrics of each step."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import assert_close

from resnet_flax import BasicBlock, ResNet
from theory_flax.base.unroll import cross_entropy
from theory_flax.experiments.training import make_training, train
from training_flax import batch_indices, init_state, make_train_step

MODEL = ResNet((1, 1), BasicBlock, width=2, num_classes=3, stem_type="cifar")


def examples(count=12):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(count, 8, 8, 3))), jnp.asarray(rng.integers(0, 3, count))


@pytest.mark.slow
def test_steps_are_those_of_sgd_with_the_learning_rate_of_each_step(x64):
    model = MODEL.clone(param_dtype=jnp.float64)
    images, labels = examples()
    learning_rates = [0.1, 0.03, 0.0]
    *_, last = train(
        model,
        images,
        labels,
        steps=3,
        every=2,
        learning_rate=lambda step: learning_rates[step],
        batch_size=4,
        seed=5,
        weight_decay=0.01,
    )

    optimizer = optax.chain(
        optax.add_decayed_weights(0.01), optax.sgd(lambda step: jnp.asarray(learning_rates)[step], 0.9)
    )
    state = init_state(model, optimizer, jax.random.key(5), images[:1])
    losses = []
    for at in range(3):
        batch = batch_indices(at, 4, 12, 5)
        state, metrics = make_train_step(model, optimizer)(state, images[batch], labels[batch])
        losses.append(metrics.loss)
    # The learning rate is a float32 in a step.
    assert_close(last.variables, {"params": state.params, "batch_stats": state.batch_stats}, 1e-7)
    assert_close(last.metrics.loss, np.array(losses[2:]), 1e-7)


def test_gradient_norms_are_those_of_every_parameter_array(x64):
    model = MODEL.clone(param_dtype=jnp.float64)
    images, labels = examples()
    first, second = train(model, images, labels, steps=1, every=1, batch_size=4)
    batch = batch_indices(0, 4, 12, 0)

    def loss(params):
        variables = {**first.variables, "params": params}
        logits, _ = model.apply(variables, images[batch], train=True, mutable=["batch_stats"])
        return cross_entropy(logits, labels[batch])

    gradients = jax.tree.leaves(jax.grad(loss)(first.variables["params"]))
    assert_close(second.gradient_norms, np.array([[np.linalg.norm(leaf) for leaf in gradients]]), 1e-10)
    weights = jax.tree.leaves(first.variables["params"])
    assert_close(second.weight_norms, np.array([[np.linalg.norm(leaf) for leaf in weights]]), 1e-10)


def test_a_training_begins_anew_from_each_seed():
    images, labels = examples()
    training = make_training(MODEL, images, labels, batch_size=4)

    def losses(seed):
        return [
            float(loss)
            for moment in training(steps=3, every=1, seed=seed)
            if moment.metrics
            for loss in moment.metrics.loss
        ]

    first = losses(1)
    assert losses(2) != first
    assert losses(1) == first


def test_moments_outlive_the_steps_after_them():
    images, labels = examples()
    moments = list(make_training(MODEL, images, labels, batch_size=4)(steps=3, every=1, learning_rate=0.1))
    kernels = [np.asarray(moment.variables["params"]["conv1"]["kernel"]) for moment in moments]
    assert [moment.step for moment in moments] == [0, 1, 2, 3]
    assert all((a != b).any() for a, b in pairwise(kernels))
    again = train(
        MODEL, images, labels, steps=1, every=1, learning_rate=0.0, batch_size=4, variables=moments[2].variables
    )
    assert_close(next(again).variables["params"], moments[2].variables["params"], 0)


def test_the_network_sees_what_is_shown(x64):
    images, labels = examples()
    model = MODEL.clone(param_dtype=jnp.float64)
    shown = make_training(model, images, labels, batch_size=4, show=lambda key, images: images * 2.0)
    doubled = make_training(model, images * 2.0, labels, batch_size=4)
    (*_, a), (*_, b) = (training(steps=2, every=1) for training in (shown, doubled))
    assert_close(a.metrics.loss, b.metrics.loss, 1e-10)
