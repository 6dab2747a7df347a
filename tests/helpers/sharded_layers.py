"""Fast layers, or small networks of them, on all devices against one: `python sharded_layers.py layers auto`.

The batch is spread over the axis "data" of a mesh whose axes are "auto" or "explicit". Prints, as JSON, how far value
and derivatives of each are from those on one device, relative to the largest number in them.
"""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from laws import random_like
from small_networks import SMALL, as_if_trained, draw_images64

from layers_flax import (
    BatchNorm,
    Conv,
    adaptive_avg_pool,
    avg_pool,
    batch_moments,
    conv2d,
    global_avg_pool,
    inference_conv2d,
    max_pool,
)
from layers_flax.nn.means import mean_by_dot
from training_flax.runtime.devices import let_virtual_devices_meet
from weights_flax import fold_batch_norm

LAYERS = {  # function of the images and further arguments, shape of the images, shapes of the arguments
    "pointwise": (partial(conv2d, stride=2), (7, 6, 4), [(1, 1, 4, 6)]),
    "keeping the size": (conv2d, (7, 6, 4), [(3, 3, 4, 6)]),
    "of many channels": (conv2d, (7, 6, 4), [(3, 3, 4, 33)]),
    "to few channels": (conv2d, (7, 6, 4), [(3, 3, 4, 1)]),
    "strided": (partial(conv2d, stride=2, padding="same"), (8, 6, 4), [(3, 3, 4, 6)]),
    "even kernel": (conv2d, (7, 6, 4), [(4, 4, 4, 6)]),
    "dot of patches": (conv2d, (2, 2, 4), [(3, 3, 4, 6)]),
    "groups": (partial(conv2d, groups=2), (7, 6, 4), [(3, 3, 2, 6)]),
    "layer": (lambda x, k: Conv(6).apply({"params": {"kernel": k}}, x), (5, 6, 4), [(3, 3, 4, 6)]),
    "one row too many": (inference_conv2d, (28, 3, 17), [(3, 3, 17, 6)]),
    "moments by a dot": (lambda x: jnp.stack([*batch_moments(x)]), (5, 6, 4), []),
    "moments by a sum": (lambda x: jnp.stack([*batch_moments(x)]), (16, 16, 4), []),
    "max_pool": (lambda x: max_pool(x, 3, 2, 1), (7, 6, 4), []),
    "avg_pool": (lambda x: avg_pool(x, 3, 2, 1), (7, 6, 4), []),
    "global_avg_pool": (global_avg_pool, (7, 6, 4), []),
    "global_avg_pool, fused": (partial(global_avg_pool, fused=True), (7, 6, 4), []),
    "adaptive_avg_pool": (lambda x: adaptive_avg_pool(x, 3), (7, 6, 4), []),
    "mean_by_dot": (mean_by_dot, (7, 4), []),
}


def batch_norm(x, scale, bias):
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": bias, "var": scale}}
    return BatchNorm().apply(variables, x, train=True)


LAYERS["BatchNorm"] = (batch_norm, (5, 6, 4), [(4,), (4,)])


def everything(function, *arguments):
    """Value, gradients, jvp and Hessian-vector product, of Σ y³."""
    tangents = jax.tree.map(jnp.cos, arguments)
    gradient = jax.grad(lambda *args: (function(*args) ** 3).sum(), tuple(range(len(arguments))))
    value, jvp = jax.jvp(function, arguments, tangents)
    return value, jvp, *jax.jvp(gradient, arguments, tangents)


def functions_of(network, images):
    """A training step's gradients and statistics, and the folded network; by name, each with its variables."""
    variables = as_if_trained(network, images)
    folded, folded_variables = fold_batch_norm(network, variables)

    def step(images, variables):
        def loss(params):
            logits, updates = network.apply(
                variables | {"params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(1)},
            )
            return jnp.square(logits).sum(), updates

        value, gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        for name, layer in gradient.items():
            if name.startswith("features") and "kernel" in layer:
                layer.pop("bias", None)  # before a VGG's BatchNorm, where its derivative is zero but for rounding
        return value, gradient

    yield "step", step, variables
    yield "folded", lambda images, variables: folded.apply(variables, images), folded_variables


def largest_error(ours, theirs):
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()) for a, b in pairs)


def main(what, kind):
    let_virtual_devices_meet()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    axis_type = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}[kind]
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(axis_type,))
    errors = {}

    def compare(name, function, images, *others):
        expected = jax.jit(function)(images, *others)
        spread = jax.device_put(images, NamedSharding(mesh, P("data")))
        whole = jax.device_put(others, NamedSharding(mesh, P()))
        with jax.set_mesh(mesh):
            errors[name] = largest_error(jax.jit(function)(spread, *whole), expected)

    if what == "layers":
        for name, (function, shape, shapes) in LAYERS.items():
            zeros = [np.zeros(shape, np.float64) for shape in [(8, *shape), *shapes]]
            compare(name, partial(everything, function), *random_like(zeros, 0))
    else:
        images = draw_images64(8, 32, 32, 3)
        for function, run, variables in functions_of(SMALL[what], images):
            compare(function, run, images, variables)
    print(json.dumps(errors))


if __name__ == "__main__":
    main(*sys.argv[1:])
