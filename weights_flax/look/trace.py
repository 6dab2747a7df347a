"""A network as the short program of its layers: a jaxpr in which each layer is one operation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from layers_flax import BatchNorm, Conv, Linear

LAYERS = (BatchNorm, Conv, Linear, nn.Dense)

# What stands for a layer in the jaxpr: `index` tells which, and that it takes images to `shape` is all that it does.
_layer = core.Primitive("layer")
_layer.def_abstract_eval(lambda x, *, index, shape: x.update(shape=shape))


class Layer(NamedTuple):
    """A layer of a network, with the values it computes with."""

    module: nn.Module
    path: str  # "layer1_0/conv1"
    values: dict[str, Any]  # kernel, bias; scale, bias, mean, var


def trace_layers(
    model: nn.Module, variables: Mapping[str, Any], image_shape: Sequence[int]
) -> tuple[core.ClosedJaxpr, list[Layer]]:
    """The network in evaluation, from images (batch, *image_shape) to logits, the batch's size a symbol.

    What the layers do is left out: in the jaxpr each is one operation `layer` with its `index` in the list. The rest
    (sums, concatenations, pooling) stands there as the network's own code has it.
    """
    layers: list[Layer] = []

    def as_one_operation(call: Any, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, LAYERS):
            return call(*arguments, **keywords)
        x, *others = arguments
        out = jax.eval_shape(lambda x: call(x, *others, **keywords), x)
        values = {name: value for collection in module.variables.values() for name, value in collection.items()}
        layers.append(Layer(module, "/".join(module.path), values))
        return _layer.bind(x, index=len(layers) - 1, shape=out.shape)

    def logits(images: jax.Array) -> Any:
        with nn.intercept_methods(as_one_operation):
            return model.apply(variables, images, train=False)

    (batch,) = jax.export.symbolic_shape("batch")
    return jax.make_jaxpr(logits)(jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)), layers
