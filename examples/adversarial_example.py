"""Changes too small for our eyes make a trained network wrong: python examples/adversarial_example.py

The fast gradient sign method (Goodfellow et al., arXiv:1412.6572, section 4): each pixel changes by ε in the direction
that raises the loss. Noise of the same size in random directions is the comparison.
"""

import jax
import jax.numpy as jnp
import optax

from resnet_flax import resnet20
from training_flax import batch_indices, init_state, make_train_step, normalise, open_dataset

EPSILON = 0.1  # of pixels from 0 to 1
data = open_dataset("digits")
images, labels = data.train.images[:, ::2, ::2], data.train.labels  # 16×16 pixels
model = resnet20(num_classes=10, width=8)
optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, 80), momentum=0.9, nesterov=True)
state = init_state(model, optimizer, jax.random.key(0), normalise(images[:1], data.mean, data.std))
train_step = jax.jit(make_train_step(model, optimizer), donate_argnums=0)
for number in range(80):
    batch = batch_indices(number, 64, len(labels), seed=0)
    state, _ = train_step(state, normalise(images[batch], data.mean, data.std), labels[batch])
variables = {"params": state.params, "batch_stats": state.batch_stats}


def loss(pixels, labels, variables):
    """Returns loss and logits; the gradient with respect to pixels from 0 to 1 is the attack."""
    logits = model.apply(variables, normalise(255 * pixels, data.mean, data.std), train=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits


attack = jax.jit(jax.grad(loss, has_aux=True))


def accuracy(pixels):
    """Returns the accuracy on test images in per cent."""
    _, logits = attack(pixels, labels, variables)
    return 100 * (logits.argmax(-1) == labels).mean()


def move(pixels, direction):
    """Changes pixels by ε, within the range 0 to 1."""
    return jnp.clip(pixels + EPSILON * jnp.sign(direction), 0, 1)


pixels, labels = jnp.asarray(data.test.images[:, ::2, ::2]) / 255, data.test.labels
gradient, _ = attack(pixels, labels, variables)
noise = jax.random.normal(jax.random.key(1), pixels.shape)

print(f"accuracy on test images: {accuracy(pixels):.1f} %")
print(f"each pixel moved by {EPSILON} at random: {accuracy(move(pixels, noise)):.1f} %")
print(f"each pixel moved by {EPSILON} along the gradient's sign: {accuracy(move(pixels, gradient)):.1f} %")
