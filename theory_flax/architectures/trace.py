"""The layers of a network and their inputs, taken from a trace of the network's own code."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flax import linen as nn
from jax.extend import core

from layers_flax import BatchNorm, Conv, Linear, Network, variables_by_shape
from theory_flax.architectures.claim import IMAGES, Architecture, Layer
from weights_flax.look.trace import Trace, trace_network

MODULES = {Conv: "conv", Linear: "fc", nn.Dense: "fc", BatchNorm: "batch norm"}
WINDOW: dict[str, Any] = {"kernel_size": None, "stride": 1, "groups": 1}
POOLS = {
    "max_pool": "max pool",
    "avg_pool": "average pool",
    "global_avg_pool": "global average pool",
    "adaptive_avg_pool": "average pool",
}


def architecture(model: nn.Module, image_shape: Sequence[int] = (224, 224, 3), name: str = "") -> Architecture:
    """Traces a network of either family on shapes only: nothing is computed, and no memory is taken.

    Args:
        model: a `ResNet`, `PlainNet`, `VGG` or `DenseNet` with any options; it is traced in evaluation.
        image_shape: (height, width, channels).
        name: of the network; by default its class.

    Raises:
        ValueError: the model is of another kind, or the images are too small for it.
    """
    if not isinstance(model, Network):
        raise ValueError(f"a network of stem, stages and head can be shown; {type(model).__name__} is none")
    trace = trace_network(model, variables_by_shape(model, image_shape), image_shape)
    return Architecture(name or type(model).__name__, tuple(image_shape), _layers(trace))


def _layers(trace: Trace) -> tuple[Layer, ...]:
    """Returns the layers of a trace, in the order in which they run.

    `made_of` maps each value to the layers whose outputs it depends on. All operations of a pool are one layer; the
    result of an operation between layers depends on the same layers as its operands.
    """
    layers: list[Layer] = []
    opened: dict[tuple[str, ...], int] = {}
    made_of: dict[Any, tuple[int, ...]] = {trace.closed.jaxpr.invars[-1]: (IMAGES,)}
    for equation in trace.closed.eqns:
        operands = [made_of.get(v, ()) for v in equation.invars if not isinstance(v, core.Literal)]
        reads = tuple(dict.fromkeys(source for operand in operands for source in operand))
        place, is_sum = trace.place_of(equation), equation.primitive.name == "add" and sum(map(bool, operands)) == 2
        begun = _begun(trace, equation, place, is_sum)
        if begun is not None:
            if begun.kind == "add" or place not in opened:
                opened[place] = len(layers)
                layers.append(begun)
            index = opened[place]
            layer = layers[index]
            layer = replace(layer, multiply_adds=layer.multiply_adds + trace.multiply_adds_of(equation))
            if reads:
                out: Any = equation.outvars[0].aval
                size = out.shape[1:3] if len(out.shape) == 4 else layer.size
                own = dict.fromkeys((*layer.reads, *(source for source in reads if source != index)))
                layer = replace(layer, channels=out.shape[-1], size=size, reads=tuple(own))
                reads = (index,)
            layers[index] = layer
        made_of |= dict.fromkeys(equation.outvars, reads)
    return tuple(layers)


def _begun(trace: Trace, equation: core.JaxprEqn, place: tuple[str, ...], is_sum: bool) -> Layer | None:
    """Returns the layer that an operation at `place` belongs to, without its output; None between layers."""
    traced, (part, *path) = trace.layer_of(equation), place
    name, stage = "/".join(path), f"stage {int(part[5:]) + 1}" if part.startswith("stage") else part
    if traced is not None:
        kind = next(kind for module, kind in MODULES.items() if isinstance(traced.module, module))
        kernel, stride, groups = (getattr(traced.module, name, default) for name, default in WINDOW.items())
        return Layer(name, kind, stage, kernel, stride, groups, 0, (1, 1), trace.parameters.get(traced.path, 0), 0, ())
    if path and (pool := re.fullmatch(r"(\w*_pool)(?:_(\d+)x\d+_(\d+))?", path[-1])):
        window = int(pool[2]) if pool[2] else None
        return Layer(name, POOLS[pool[1]], stage, window, int(pool[3] or 1), 1, 0, (1, 1), 0, 0, ())
    return Layer(f"{name} sum", "add", stage, None, 1, 1, 0, (1, 1), 0, 0, ()) if is_sum else None
