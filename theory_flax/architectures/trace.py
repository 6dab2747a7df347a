"""The layers of a network, found in the trace of its own code."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from math import prod
from typing import Any

import jax
from flax import linen as nn
from jax.extend import core

from layers_flax import BatchNorm, Conv, Linear, Network, image_by_shape, multiply_adds_of, variables_by_shape
from theory_flax.architectures.claim import IMAGES, Architecture, Layer

MODULES = {Conv: "conv", Linear: "fc", nn.Dense: "fc", BatchNorm: "batch norm"}


POOLS = {
    "max_pool": "max pool",
    "avg_pool": "average pool",
    "global_avg_pool": "global average pool",
    "adaptive_avg_pool": "average pool",
}


def architecture(model: nn.Module, image_shape: Sequence[int] = (224, 224, 3), name: str = "") -> Architecture:
    """Traces a network of either family. Nothing is computed, no memory is taken.

    Args:
        model: a `ResNet`, `PlainNet`, `VGG` or `DenseNet` with any options; evaluation is what is traced.
        image_shape: (height, width, channels).
        name: what to call it; its class, if not given.

    Raises:
        ValueError: the model is of another kind, or the images are too small for it.
    """
    if not isinstance(model, Network):
        raise ValueError(f"a network of stem, stages and head can be shown; {type(model).__name__} is none")
    # Both hide blocks' layers in one operation.
    options = {name: False for name in ("remat", "scan") if hasattr(model, name)}
    model = model.clone(**options, axis_name=None, parent=None, name=None)
    images = image_by_shape(image_shape)
    modules: dict[str, nn.Module] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        modules["/".join(context.module.path)] = context.module
        return call(*args, **kwargs)

    variables = variables_by_shape(model, image_shape)
    with nn.intercept_methods(record):
        jaxpr = jax.make_jaxpr(partial(_by_stage, model))(variables, images).jaxpr
    parameters: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        place = "/".join(key.key for key in path[:-1])
        parameters[place] = parameters.get(place, 0) + prod(leaf.shape)
    layers = _Trace(jaxpr, modules, parameters).layers
    return Architecture(name or type(model).__name__, tuple(image_shape), tuple(layers))


def _by_stage(model: Any, variables: Any, x: jax.Array) -> jax.Array:
    """The whole network, each of its parts under its name."""
    count = len(model.stage_sizes)
    with jax.named_scope("stem"):
        x = model.apply(variables, x, method="stem")
    for index in range(count):
        with jax.named_scope(f"stage {index + 1}"):
            x = model.apply(variables, x, index, method="stage")
    with jax.named_scope("head"):
        return model.apply(variables, x, method="head")


class _Trace:
    """The layers of a jaxpr whose operations are named by stage and module.

    Of each value it is known which layers' outputs it is made of. An operation within a module or a pool belongs to
    that layer, and what lies between them hands on what its operands are made of.
    """

    def __init__(self, jaxpr: core.Jaxpr, modules: dict[str, nn.Module], parameters: dict[str, int]):
        self.layers: list[Layer] = []
        self._network = type(modules[""]).__name__
        self._modules, self._parameters = modules, parameters
        self._open: dict[tuple[str, str], int] = {}
        self._made_of: dict[Any, tuple[int, ...]] = {jaxpr.invars[-1]: (IMAGES,)}
        for equation in jaxpr.eqns:
            self._add(equation)

    def _add(self, equation: core.JaxprEqn) -> None:
        stage, *scopes = str(equation.source_info.name_stack).split("/")
        # "ResNet.stage/layer1_0/layer1_0.branches/conv1" are methods: of the network, of layer1_0, of its conv1.
        owners = [owner for owner, _ in groupby(scope.split(".")[0] for scope in scopes)]
        modules = [owner for owner in owners if owner != self._network]
        operands = [self._made_of.get(v, ()) for v in equation.invars if not isinstance(v, core.Literal)]
        reads = tuple(dict.fromkeys(source for operand in operands for source in operand))
        index = self._layer(stage, modules)
        if index is None and equation.primitive.name == "add" and sum(map(bool, operands)) == 2:
            index = len(self.layers)
            name = "/".join(modules)
            self.layers.append(Layer(f"{name} sum", "add", stage, None, 1, 1, 0, (1, 1), 0, 0, ()))
        if index is not None:
            layer = self.layers[index]
            layer = replace(layer, multiply_adds=layer.multiply_adds + multiply_adds_of(equation))
            if reads:
                out: Any = equation.outvars[0].aval
                shape = out.shape
                size = (shape[1], shape[2]) if len(shape) == 4 else layer.size
                own = dict.fromkeys((*layer.reads, *(source for source in reads if source != index)))
                layer = replace(layer, channels=shape[-1], size=size, reads=tuple(own))
                reads = (index,)
            self.layers[index] = layer
        for out in equation.outvars:
            self._made_of[out] = reads

    def _layer(self, stage: str, modules: list[str]) -> int | None:
        """The place of the layer that an operation belongs to: a new one where it is the layer's first."""
        name, module = "/".join(modules), self._modules.get("/".join(modules))
        kind = next((kind for cls, kind in MODULES.items() if isinstance(module, cls)), None)
        window = ["", ""]
        if kind is None and modules:
            pool, *window = modules[-1].rsplit("_", 2) if "x" in modules[-1] else [modules[-1], "", ""]
            kind = POOLS.get(pool)
        if kind is None:
            return None
        if (stage, name) not in self._open:
            self._open[stage, name] = len(self.layers)
            kernel = getattr(module, "kernel_size", int(window[0].split("x")[0]) if window[0] else None)
            stride = getattr(module, "stride", int(window[1] or 1))
            groups, parameters = getattr(module, "groups", 1), self._parameters.get(name, 0)
            self.layers.append(Layer(name, kind, stage, kernel, stride, groups, 0, (1, 1), parameters, 0, ()))
        return self._open[stage, name]
