"""A network as the short program of its layers: a jaxpr in which each layer is one operation."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.extend import core

from layers_flax import BatchNorm, Conv, Linear, Network, multiply_adds_of
from layers_flax.conv.choices import plain_convolutions
from weights_flax.look.features import outputs_of

LAYERS = (BatchNorm, Conv, Linear, nn.Dense)

# A layer in the jaxpr: `index` is its place in the list of layers; `shape` and `dtype` are those of its output.
_layer = core.Primitive("layer")
_layer.def_abstract_eval(lambda x, *, index, shape, dtype: x.update(shape=shape, dtype=dtype))


class TracedLayer(NamedTuple):
    """A layer of a network.

    Attributes:
        module: a `Conv`, `BatchNorm`, `Linear` or `nn.Dense`.
        path: its place among the variables, ("layer1_0", "conv1").
        multiply_adds: of a convolution or dense layer, for one image.
    """

    module: nn.Module
    path: tuple[str, ...]
    multiply_adds: int


class Trace(NamedTuple):
    """A network in evaluation, from images to logits.

    Attributes:
        closed: the jaxpr. Each layer is one operation `layer`, which stands for all that the layer computes; sums,
            concatenations and pooling are the operations of the network's own code.
        layers: the layers that the operations `layer` stand for, by index.
        parameters: path to number of parameters, for each module that has parameters of its own.
        modules: paths of these modules, and of the modules around them.
    """

    closed: core.ClosedJaxpr
    layers: list[TracedLayer]
    parameters: dict[tuple[str, ...], int]
    modules: set[tuple[str, ...]]

    def layer_of(self, equation: core.JaxprEqn) -> TracedLayer | None:
        """The layer that an operation stands for; None for an operation between layers."""
        return self.layers[equation.params["index"]] if equation.primitive is _layer else None

    def multiply_adds_of(self, equation: core.JaxprEqn) -> int:
        """Multiply-adds of an operation for one image."""
        layer = self.layer_of(equation)
        return multiply_adds_of(equation) if layer is None else layer.multiply_adds

    def place_of(self, equation: core.JaxprEqn) -> tuple[str, ...]:
        """The part of a `Network` that an operation belongs to, then its modules and, last, its pool.

        An example is ("stage1", "transition1", "avg_pool_2x2_2"). It comes from JAX's name for the operation, which
        holds methods and other scopes too: "stage1/DenseNet.stage/transition1/avg_pool_2x2_2".
        """
        scopes = str(equation.source_info.name_stack).split("/")
        part = next(scope for scope in scopes if scope in ("stem", "head") or scope.startswith("stage"))
        path: tuple[str, ...] = ()
        for scope in scopes:
            if (module := (*path, scope.split(".")[0])) in self.modules:
                path = module
            elif "_pool" in scope:
                return (part, *path, scope)
        return (part, *path)


def trace_network(
    model: nn.Module, variables: Mapping[str, Any], image_shape: Sequence[int], *, batch: Any = 1
) -> Trace:
    """Traces a network by shape alone: nothing is computed, and no memory is taken.

    Args:
        model: a `Network`, traced part by part, or another module that is called as one.
        variables: {"params", "batch_stats"}, arrays or their shapes. They are the first inputs of the jaxpr.
        image_shape: (height, width, channels).
        batch: the number of images, or a symbol of `jax.export`.
    """
    # Rematerialised blocks and blocks in a loop would hide their layers in one operation.
    options: dict[str, Any] = dict(remat=False, scan=False, axis_name=None, parent=None, name=None)
    model = model.clone(**{name: value for name, value in options.items() if hasattr(model, name)})
    layers: list[TracedLayer] = []

    def as_one_operation(call: Any, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, LAYERS):
            return call(*arguments, **keywords)
        x, *others = arguments
        with plain_convolutions():
            inside = jax.make_jaxpr(lambda x: call(x, *others, **keywords))(x)
        layers.append(TracedLayer(module, module.path, sum(map(multiply_adds_of, inside.eqns))))
        (out,) = inside.out_avals
        return _layer.bind(x, index=len(layers) - 1, shape=out.shape, dtype=out.dtype)

    def logits(variables: Mapping[str, Any], images: jax.Array) -> Any:
        with nn.intercept_methods(as_one_operation):
            return model.apply(variables, images, method=_logits)

    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    closed = jax.make_jaxpr(logits)(variables, images)
    parameters: dict[tuple[str, ...], int] = {}
    for path, leaf in flatten_dict(variables["params"]).items():
        parameters[path[:-1]] = parameters.get(path[:-1], 0) + prod(leaf.shape)
    modules = {path[:end] for path in parameters for end in range(1, len(path) + 1)}
    return Trace(closed, layers, parameters, modules)


def _logits(bound: Any, images: jax.Array) -> jax.Array:
    if not isinstance(bound, Network):
        return bound(images, train=False)
    *_, (_, logits) = outputs_of(bound, images)
    return logits
