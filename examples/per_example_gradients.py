"""The gradient of each image's own loss, all at once by vmap of grad: python examples/per_example_gradients.py

With running statistics an image's loss does not depend on other images, so the batch's gradient is the mean of the
images' gradients. The largest gradients are those of images that the network classifies badly.
"""

import jax
import optax

from resnet_flax import ResNet
from training_flax import batch_indices, init_state, make_train_step, normalise, open_dataset

data = open_dataset("digits")
images, labels = normalise(data.train.images[:, 2::4, 2::4], data.mean, data.std), data.train.labels  # 8×8 pixels
# Every image has a gradient of all parameters, which fills memory; `remat` saves the memory of the activations.
model = ResNet([1, 1, 1], num_classes=10, stem_type="cifar", width=8, remat=True)
optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
state = init_state(model, optimizer, jax.random.key(0), images[:1])
train_step = jax.jit(make_train_step(model, optimizer), donate_argnums=0)
for number in range(100):
    batch = batch_indices(number, 64, len(labels), seed=0)
    state, _ = train_step(state, images[batch], labels[batch])


def loss(params, images, labels):
    """Returns the mean loss of a batch."""
    logits = model.apply({"params": params, "batch_stats": state.batch_stats}, images, train=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def loss_of_one(params, image, label):
    """Returns the loss of one image, (height, width, channels)."""
    return loss(params, image[None], label[None])


batch = batch_indices(0, 64, len(labels), seed=1)
each = jax.jit(jax.vmap(jax.grad(loss_of_one), in_axes=(None, 0, 0)))(state.params, images[batch], labels[batch])
whole = jax.jit(jax.grad(loss))(state.params, images[batch], labels[batch])
mean = jax.tree.map(lambda leaf: leaf.mean(0), each)
error = optax.tree.norm(optax.tree.sub(mean, whole)) / optax.tree.norm(whole)
print(f"their mean and the batch's gradient differ by {error:.1e} of its norm")

norms = jax.vmap(optax.tree.norm)(each)
for name, place in ("largest", norms.argmax()), ("smallest", norms.argmin()):
    print(f"{name} norm: {norms[place]:.1e}, image {batch[place]}, a {labels[batch[place]]}")
