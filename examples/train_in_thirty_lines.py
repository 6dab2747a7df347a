"""ResNet-20 on handwritten digits with a training loop of your own: python examples/train_in_thirty_lines.py"""

import jax
import optax

from resnet_flax import resnet20
from training_flax import (
    batch_indices,
    compiler_options,
    evaluate,
    init_state,
    make_train_step,
    normalise,
    open_dataset,
)

EPOCHS, BATCH_SIZE = 3, 64
data = open_dataset("digits")
images, labels = data.train
steps = EPOCHS * len(labels) // BATCH_SIZE

model = resnet20(num_classes=len(data.class_names))
optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9, nesterov=True)
state = init_state(model, optimizer, jax.random.key(0), normalise(images[:1], data.mean, data.std))
train_step = jax.jit(make_train_step(model, optimizer), donate_argnums=0, compiler_options=compiler_options())

for number in range(steps):
    batch = batch_indices(number, BATCH_SIZE, len(labels), seed=0)
    state, metrics = train_step(state, normalise(images[batch], data.mean, data.std), labels[batch])
    if (number + 1) % 10 == 0:
        print(f"step {number + 1}/{steps}  loss {metrics.loss:.3f}, accuracy {100 * metrics.accuracy:.0f} %")

variables = {"params": state.params, "batch_stats": state.batch_stats}
result = evaluate(model, variables, data)
print(f"test accuracy {100 * result.accuracy:.2f} % of {len(result.predictions)} images")
