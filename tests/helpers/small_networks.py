"""Small networks of every kind in float64, with variables that no initialiser gives: nothing is zero or one."""

import jax
import jax.numpy as jnp
import numpy as np
from structure import init

from densenet_flax import densenet121
from resnet_flax import resnet18, resnet20_v2, vgg11_bn

SMALL = {
    "resnet18": resnet18(width=8, num_classes=5, param_dtype=jnp.float64).clone(stage_sizes=(1, 1, 2, 1)),
    "resnet20_v2": resnet20_v2(width=4, num_classes=5, param_dtype=jnp.float64).clone(stage_sizes=(1, 2, 1)),
    "vgg11_bn": vgg11_bn(width=4, num_classes=5, param_dtype=jnp.float64),
    "densenet121": densenet121(block_sizes=(2, 2, 1, 2), growth_rate=4, num_classes=5, param_dtype=jnp.float64),
}


def stages_of(model):
    return len(getattr(model, "stage_sizes", getattr(model, "block_sizes", ())))


def as_if_trained(model, images):
    """Variables of `model` whose scales, biases and statistics are drawn."""
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return leaf
        values = rng.uniform(0.5, 1.5, leaf.shape) if name in ("scale", "var") else rng.normal(0, 0.2, leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, init(model, images))


def draw_images64(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float64)
