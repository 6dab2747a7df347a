"""Four networks trained at once, and their mean prediction: python examples/ensemble_by_vmap.py

`jax.vmap` over keys makes four states, and `jax.vmap` of the training step over states trains all four.
"""

import jax
import optax

from resnet_flax import ResNet
from training_flax import batch_indices, init_state, make_train_step, normalise, open_dataset

MEMBERS, STEPS = 4, 60
data = open_dataset("digits")
# Under vmap, with kernels for each member, convolutions become grouped ones. On the CPU XLA takes two to three times as
# long for them as for one member after another, so images have only 8×8 pixels here and the network is narrow.
images, test_images = (normalise(split.images[:, 2::4, 2::4], data.mean, data.std) for split in (data.train, data.test))
labels = data.train.labels
model = ResNet([1, 1, 1], num_classes=10, stem_type="cifar", width=8)
optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, STEPS), momentum=0.9, nesterov=True)


@jax.jit
@jax.vmap
def start(key):
    """Makes the state before the first step, for each key."""
    return init_state(model, optimizer, key, images[:1])


train_step = jax.jit(jax.vmap(make_train_step(model, optimizer), in_axes=(0, None, None)), donate_argnums=0)

states = start(jax.random.split(jax.random.key(0), MEMBERS))
for number in range(STEPS):
    batch = batch_indices(number, 64, len(labels), seed=0)
    states, metrics = train_step(states, images[batch], labels[batch])


@jax.jit
@jax.vmap
def probabilities(state):
    """Returns the probabilities of classes of all test images, (images, classes) for each state."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return jax.nn.softmax(model.apply(variables, test_images, train=False))


each = probabilities(states)  # (members, images, classes)
single = 100 * (each.argmax(-1) == data.test.labels).mean(-1)
together = 100 * (each.mean(0).argmax(-1) == data.test.labels).mean()
print("members:  " + "  ".join(f"{accuracy:.1f} %" for accuracy in single))
print(f"ensemble: {together:.1f} %, the mean member {single.mean():.1f} %")
