"""A network trained on the digits 0 to 4 learns 5 to 9 from five images of each better than a random network.

First a new classifier is trained, then the whole network at a small learning rate, both with BatchNorm frozen, because
statistics of so few images are poor. Run it with: python examples/fine_tune.py
"""

import tempfile
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_flax import resnet20
from training_flax import batch_indices, init_state, make_eval_step, make_train_step, normalise, open_dataset
from weights_flax import load_weights, save_weights

STEPS, DRAWS = 10, 4
data = open_dataset("digits")


def digits(split, first, of_each=None, seed=0):
    """Selects normalised images of five of the ten digits, at half resolution, and labels that count from 0."""
    draw = np.random.default_rng(seed).permutation
    chosen = np.concatenate([draw(np.flatnonzero(split.labels == first + digit))[:of_each] for digit in range(5)])
    return normalise(split.images[chosen, ::2, ::2], data.mean, data.std), split.labels[chosen] - first


@cache
def optimizer_and_step(model, steps, learning_rate, freeze):
    """Makes SGD and its compiled step, the same for all draws."""
    optimizer = optax.sgd(optax.cosine_decay_schedule(learning_rate, steps), momentum=0.9, nesterov=True)
    return optimizer, jax.jit(make_train_step(model, optimizer, freeze=freeze))


def train(model, images, labels, steps, learning_rate, variables=None, freeze=(), seed=0):
    """Trains by SGD from `variables`, or from random ones, and returns the new variables."""
    optimizer, step = optimizer_and_step(model, steps, learning_rate, freeze)
    state = init_state(model, optimizer, jax.random.key(seed), images[:1])
    state = state._replace(**variables or {})
    for number in range(steps):
        batch = batch_indices(number, min(64, len(labels)), len(labels), seed=0)
        state, _ = step(state, images[batch], labels[batch])
    return {"params": state.params, "batch_stats": state.batch_stats}


# Twenty classes, of digit and rotation, because features for only five classes are of little use for others.
images, labels = digits(data.train, first=0)
turned = jnp.concatenate([jnp.rot90(images, turns, axes=(1, 2)) for turns in range(4)])
turned_labels = np.concatenate([4 * labels + turns for turns in range(4)])
model, (test_images, test_labels) = resnet20(num_classes=5, width=8), digits(data.test, first=5)
with tempfile.TemporaryDirectory() as folder:
    file, broad = Path(folder) / "zero_to_four.safetensors", model.clone(num_classes=20)
    save_weights(broad, train(broad, turned, turned_labels, steps=300, learning_rate=0.1), file)
    variables = load_weights(model, file, new_head=True)

frozen, features = model.clone(frozen_batch_norm=True), ("conv1/*", "bn1/*", "layer*")
evaluate, right = jax.jit(make_eval_step(model)), []
for seed in range(DRAWS):
    images, labels = digits(data.train, first=5, of_each=5, seed=seed)
    head = train(frozen, images, labels, STEPS, 0.1, variables, freeze=features)
    tuned = train(frozen, images, labels, STEPS, 0.01, head)
    scratch = train(model, images, labels, 2 * STEPS, 0.03, seed=seed)
    right.append(
        [(evaluate(v, test_images, test_labels).prediction == test_labels).mean() for v in (head, tuned, scratch)]
    )

for name, share in zip(("a new classifier", "then all of it", "from scratch"), np.mean(right, 0), strict=True):
    print(f"{name}: {100 * share:.1f} % of test images, the mean of {DRAWS} draws")
