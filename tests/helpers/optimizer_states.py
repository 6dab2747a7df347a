"""Two steps of optimizers on four devices, their state sharded, with and without a stop between the two.

python optimizer_states.py FOLDER NAME…
"""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from training_flax import TrainConfig, make_optimizer, make_train_step, start_state
from training_flax.run.checkpoints import Checkpoints, Progress
from training_flax.runtime.devices import Devices


class Small(nn.Module):
    """A kernel large enough for Adafactor to factor, and small ones."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Dense(128)(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes)(x)


def two_steps(name, folder):
    """Takes two steps, and the second one again from a checkpoint; returns both states and their shardings."""
    devices = Devices("jit", shard_state=True)
    config = TrainConfig("resnet20", optimizer=name, lr=0.01, weight_decay=0.1, decay="kernels", clip_norm=1.0)
    optimizer = make_optimizer(config, 2)
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 2))
    variables = {"params": Small().init(jax.random.key(1), images)["params"], "batch_stats": {}}
    shapes = jax.eval_shape(lambda: start_state(variables, optimizer, jax.random.key(2)))
    sharding = devices.state_sharding(shapes)
    step = jax.jit(make_train_step(Small(), optimizer), out_shardings=(sharding, None))
    batch = images, jnp.arange(8) % 4
    first, _ = step(jax.device_put(start_state(variables, optimizer, jax.random.key(2)), sharding), *batch)
    checkpoints = Checkpoints(folder, "mark", [2])
    checkpoints.save(1, first, Progress())
    checkpoints.close()
    second, metrics = step(first, *batch)
    assert np.isfinite(metrics.gradient_norm)
    placed = jax.tree.map(lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), shapes, sharding)
    _, restored, _, damaged = Checkpoints(folder, "mark", [2]).newest(placed)
    assert not damaged
    again, _ = step(restored, *batch)
    return first, second, again


if __name__ == "__main__":
    for name in sys.argv[2:]:
        first, second, again = two_steps(name, Path(sys.argv[1], name))
        bits = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((second.params, second.opt_state))]
        assert bits == [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((again.params, again.opt_state))], name
        before, after = (np.asarray(state.params["Dense_0"]["kernel"]) for state in (first, second))
        assert not np.array_equal(before, after), name
        large = [leaf for leaf in jax.tree.leaves(first.opt_state) if leaf.size >= 128 * 128]
        split = [leaf for leaf in jax.tree.leaves(first.opt_state) if not leaf.sharding.is_fully_replicated]
        assert split
        assert set(map(id, large)) <= set(map(id, split)), name
        print(name)
