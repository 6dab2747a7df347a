"""A linear classifier on a network's features, random and trained: python examples/linear_probe.py

The classifier learns from the pooled features of 100 images; the network has learned from all images, or from none.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from sklearn.linear_model import LogisticRegression

from resnet_flax import resnet20
from training_flax import batch_indices, init_state, make_train_step, normalise, open_dataset
from weights_flax import features

STEPS, CLASSES = 60, 10
data = open_dataset("digits")
# The 32×32 pixels are repeated ones, so every second pixel loses nothing.
images, test_images = (normalise(split.images[:, ::2, ::2], data.mean, data.std) for split in (data.train, data.test))
labels, test_labels = data.train.labels, data.test.labels

model = resnet20(num_classes=CLASSES, width=8)
optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, STEPS), momentum=0.9, nesterov=True)
state = init_state(model, optimizer, jax.random.key(0), images[:1])
random = {"params": state.params, "batch_stats": state.batch_stats}
train_step = jax.jit(make_train_step(model, optimizer))
for number in range(STEPS):
    batch = batch_indices(number, 64, len(labels), seed=0)
    state, _ = train_step(state, images[batch], labels[batch])
trained = {"params": state.params, "batch_stats": state.batch_stats}

pooled_features = jax.jit(partial(features, model, stop_at="pooled"))


@jax.jit
def logistic_regression(x, y):
    """Returns kernel and bias that minimise Σ cross-entropy + ‖kernel‖² / 2.

    A hundred steps of L-BFGS run in one compiled loop, which is fast for dots; only convolutions are slow in loops.
    """

    def objective(params):
        kernel, bias = params
        return optax.softmax_cross_entropy_with_integer_labels(x @ kernel + bias, y).sum() + (kernel**2).sum() / 2

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(objective)(params)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
        return (optax.apply_updates(params, updates), state), None

    solver, params = optax.lbfgs(), (jnp.zeros((x.shape[1], CLASSES)), jnp.zeros(CLASSES))
    return jax.lax.scan(step, (params, solver.init(params)), length=100)[0][0]


for name, variables in {"random": random, "trained": trained}.items():
    x, test_x = (pooled_features(variables, part)["pooled"] for part in (images[:100], test_images))
    x, test_x = ((part - x.mean(0)) / (x.std(0) + 1e-6) for part in (x, test_x))
    kernel, bias = logistic_regression(x, labels[:100])
    ours = (test_x @ kernel + bias).argmax(-1)
    theirs = LogisticRegression(max_iter=1000).fit(x, labels[:100]).predict(test_x)
    print(f"from {name} weights' features: {100 * (ours == test_labels).mean():.1f} % right, ", end="")
    print(f"and of {100 * (ours == theirs).mean():.1f} % scikit-learn says the same")
