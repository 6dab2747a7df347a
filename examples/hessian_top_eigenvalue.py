"""The sharpest direction of a trained network's loss, by Lanczos: python examples/hessian_top_eigenvalue.py

The Hessian is never formed: its product with a vector is the derivative of the gradient along it (Pearlmutter 1994),
forward mode over reverse mode. Gradient descent is stable up to a learning rate of 2 / λ for the top eigenvalue λ.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from resnet_flax import ResNet
from training_flax import batch_indices, init_state, make_train_step, normalise, open_dataset


def top_eigenpair(product, size, iterations, seed=0):
    """Returns the largest eigenvalue and its unit vector of a symmetric matrix, from products with vectors.

    This is a Python loop, because in a compiled one XLA's convolutions on the CPU take 6 to 16 times as long.
    """
    basis, diagonal, beside = [], [], []
    vector = np.random.default_rng(seed).standard_normal(size)
    for _ in range(iterations):
        basis.append(vector / np.linalg.norm(vector))
        vector = np.asarray(product(basis[-1]), np.float64)
        diagonal.append(basis[-1] @ vector)
        for _ in range(2):  # a second time, because rounding leaves a rest after the first
            vector -= np.array(basis).T @ (np.array(basis) @ vector)
        beside.append(np.linalg.norm(vector))
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
    return values[-1], vectors[:, -1] @ np.array(basis)


data = open_dataset("digits")
images, labels = normalise(data.train.images[:, 2::4, 2::4], data.mean, data.std), data.train.labels  # 8×8 pixels
model = ResNet([1, 1, 1], num_classes=10, stem_type="cifar", width=8)
optimizer = optax.sgd(0.05, momentum=0.9)
state = init_state(model, optimizer, jax.random.key(0), images[:1])
step = jax.jit(make_train_step(model, optimizer), donate_argnums=0)
for number in range(60):
    batch = batch_indices(number, 64, len(labels), seed=0)
    state, _ = step(state, images[batch], labels[batch])

flat, unravel = ravel_pytree(state.params)


def loss(flat, images, labels):
    """Returns the loss for all parameters in one vector, with running statistics."""
    variables = {"params": unravel(flat), "batch_stats": state.batch_stats}
    logits = model.apply(variables, images, train=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
def hvp(flat, vector, images, labels):
    """Multiplies the Hessian at `flat` by a vector."""
    return jax.jvp(lambda flat: jax.grad(loss)(flat, images, labels), (flat,), (vector,))[1]


def product(vector):
    """Multiplies the Hessian of the loss of 512 images by a vector."""
    return hvp(flat, jnp.asarray(vector, jnp.float32), images[:512], labels[:512])


value, vector = top_eigenpair(product, flat.size, iterations=20)
residual = np.linalg.norm(product(vector) - value * vector) / value
print(f"top eigenvalue of {flat.size:,} λ = {value:.2f}, ‖Hv - λv‖ / λ = {residual:.1e}")
