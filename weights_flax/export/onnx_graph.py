"""ONNX graphs, written from the trace of a network's own code, so that there is no second copy of a network."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from jax.extend import core

from layers_flax import BatchNorm, Conv
from weights_flax.look.trace import Trace, TracedLayer

CHANNELS_FIRST = (0, 2, 3, 1)  # the places of batch, height, width and channels in ONNX's images
POOL = re.compile(r"global_avg_pool|adaptive_avg_pool|(max|avg)_pool_\d+x\d+_\d+")
ELEMENTWISE = {"add": "Add", "mul": "Mul"}


class OnnxTensor(NamedTuple):
    """An array of the network: axis i of the array is axis `axes[i]` of ONNX's tensor `name`."""

    name: str
    axes: tuple[int, ...]


class Node(NamedTuple):
    """An ONNX operation with one output."""

    op: str
    inputs: list[str]
    output: str
    name: str
    attributes: dict[str, Any]


class OnnxGraph:
    """Nodes of ONNX for the operations of a trace; images in ONNX have the channels first.

    A transposition only changes the `axes` of an `OnnxTensor`. A node `Transpose` is added when a later node needs it.

    Attributes:
        trace: the network's operations.
        opset: the version of ONNX' operations, 9 or later; before 11 some have other forms.
        weights: its variables by path.
        nodes: in the order in which they run.
        constants: the arrays that nodes read, by name.
    """

    def __init__(self, trace: Trace, variables: Mapping[str, Any], opset: int):
        self.trace, self.opset = trace, opset
        self.weights: dict[tuple[str, ...], Any] = {}
        for collection in ("params", "batch_stats"):
            self.weights |= flatten_dict(variables.get(collection, {}))
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def write(self, closed: core.ClosedJaxpr, inputs: Sequence[OnnxTensor | np.ndarray]) -> list[Any]:
        """Adds nodes for a whole jaxpr, and returns its outputs for these inputs."""
        jaxpr = closed.jaxpr
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
        values |= zip(jaxpr.invars, inputs, strict=True)

        def read(atom: Any) -> Any:
            aval: Any = atom.aval
            return np.asarray(atom.val, aval.dtype) if isinstance(atom, core.Literal) else values.get(atom)

        for pool, group in groupby(jaxpr.eqns, _pool_of):
            equations = list(group)
            if pool:
                values[equations[-1].outvars[0]] = self.pool(pool, equations, read)
                continue
            for equation in equations:
                if equation.primitive.name == "dim_as_value":
                    continue  # the size of the batch, which no node needs
                outputs = self.operation(equation, [read(atom) for atom in equation.invars])
                values |= zip(equation.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def add(
        self, op: str, inputs: Sequence[str], axes: tuple[int, ...], name: str | None = None, **attributes: Any
    ) -> OnnxTensor:
        """Adds a node, and returns its output."""
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(Node(op, list(inputs), output, name or output, attributes))
        return OnnxTensor(output, axes)

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        """Adds an array to the file, and returns its name."""
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value).reshape(value.shape)
        return name

    def name_of(self, value: OnnxTensor | np.ndarray, axes: tuple[int, ...]) -> str:
        """Returns the name of a tensor that has the value's axes in the places `axes`; scalars have no axes."""
        order = np.argsort(axes)
        if isinstance(value, np.ndarray):
            return self.constant(value.transpose(order) if value.ndim else value)
        if value.axes == axes:
            return value.name
        return self.add("Transpose", [value.name], axes, perm=[value.axes[axis] for axis in order]).name

    def operation(self, equation: core.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
        """Adds nodes for one operation, or computes the operation if all operands are arrays; returns the outputs."""
        kind, params = equation.primitive.name, equation.params
        inner = _inner(equation)
        if isinstance(inner, core.ClosedJaxpr):
            return self.write(inner, operands)
        of_any_size = not all(isinstance(size, int) for size in params.get("shape", ()))
        if kind == "broadcast_in_dim" and of_any_size and not operands[0].ndim:
            return operands  # ONNX broadcasts a number itself
        if all(isinstance(operand, np.ndarray) for operand in operands):
            result = equation.primitive.bind(*operands, **params)
            return [np.asarray(value) for value in (result if equation.primitive.multiple_results else [result])]
        x = next(operand for operand in operands if isinstance(operand, OnnxTensor))
        axes, with_zero = x.axes, any(isinstance(value, np.ndarray) and not value.any() for value in operands)
        inputs: list[Any] = [atom.aval for atom in equation.invars]
        output: Any = equation.outvars[0].aval
        before, shape = inputs[0].shape, output.shape
        layer = self.trace.layer_of(equation)
        if layer is not None:
            if len(shape) == (4 if isinstance(layer.module, Conv | BatchNorm) else 2):
                return [self.layer(layer, x)]
            kind = type(layer.module).__name__
        if kind == "add" and with_zero:
            return [x]  # a plain network adds a shortcut of zeros
        if kind in ELEMENTWISE:
            return [self.add(ELEMENTWISE[kind], [self.name_of(operand, axes) for operand in operands], axes)]
        if kind == "max" and with_zero:
            return [self.add("Relu", [x.name], axes)]
        if kind == "concatenate":
            names = [self.name_of(operand, axes) for operand in operands]
            return [self.add("Concat", names, axes, axis=axes[params["dimension"]])]
        if kind == "transpose":
            return [OnnxTensor(x.name, tuple(axes[axis] for axis in params["permutation"]))]
        if kind == "slice":
            return [self.slice(x, before, **params)]
        if kind == "dynamic_update_slice" and isinstance(operands[1], OnnxTensor):
            part = inputs[1].shape
            if isinstance(operands[0], np.ndarray) and not any(operands[2:]):
                behind = [(0, 0 if whole == own else whole - own, 0) for whole, own in zip(shape, part, strict=True)]
                return [self.pad(x, operands[0], behind)]
            return [self.put(*operands, before, part)]
        if kind == "pad" and not any(interior for *_, interior in params["padding_config"]):
            return [self.pad(x, operands[1], params["padding_config"])]
        if kind == "reshape" and len(shape) == 2 and shape[0] == before[0]:
            return [self.add("Flatten", [self.name_of(x, tuple(range(len(axes))))], (0, 1), axis=1)]
        raise ValueError(f"the network does {kind!r} of {before} to {shape}, which the ONNX export does not know")

    def layer(self, layer: TracedLayer, x: OnnxTensor) -> OnnxTensor:
        """Adds a convolution, a BatchNorm in evaluation, or a dense layer."""
        module, path = layer.module, "/".join(layer.path)
        values = {place[-1]: np.asarray(leaf) for place, leaf in self.weights.items() if place[:-1] == layer.path}
        if isinstance(module, Conv):
            values["kernel"] = values["kernel"].transpose(3, 2, 0, 1)
        names = {name: self.constant(value, f"{path}/{name}") for name, value in values.items()}
        if isinstance(module, BatchNorm):
            inputs = [self.name_of(x, CHANNELS_FIRST), *(names[name] for name in ("scale", "bias", "mean", "var"))]
            return self.add("BatchNormalization", inputs, CHANNELS_FIRST, path, epsilon=module.epsilon)
        weights = [names[name] for name in ("kernel", "bias") if name in names]
        if not isinstance(module, Conv):
            return self.add("Gemm", [self.name_of(x, (0, 1)), *weights], (0, 1), path)
        padding = (module.kernel_size - 1) // 2 if module.padding is None else module.padding
        # SAME_UPPER is our "same": an odd pixel of padding goes to the upper end of the axis.
        options: dict[str, Any] = dict(auto_pad="SAME_UPPER") if padding == "same" else dict(pads=[padding] * 4)
        options |= dict(strides=[module.stride] * 2, group=module.groups)
        return self.add("Conv", [self.name_of(x, CHANNELS_FIRST), *weights], CHANNELS_FIRST, path, **options)

    def slice(
        self, x: OnnxTensor, shape: tuple, start_indices: tuple, limit_indices: tuple, strides: Any
    ) -> OnnxTensor:
        """Adds a slice with steps, which names only the axes that it shortens."""
        parts = list(zip(start_indices, limit_indices, strides or (1,) * len(shape), x.axes, strict=True))
        cut = [part for part, size in zip(parts, shape, strict=True) if part[:3] != (0, size, 1)]
        if not cut:
            return x
        if self.opset < 10:
            return self._slice_without_steps(x, parts)
        starts, ends, steps, axes = (self.constant(np.asarray(what, np.int64)) for what in zip(*cut, strict=True))
        return self.add("Slice", [x.name, starts, ends, axes, steps], x.axes)

    def _slice_without_steps(self, x: OnnxTensor, parts: Sequence[tuple[int, Any, int, int]]) -> OnnxTensor:
        """Adds a slice of consecutive places and, for steps along height and width, a pool of windows of one pixel."""
        ordered = sorted(parts, key=lambda part: part[3])
        starts = [start for start, *_ in ordered]
        ends = [end if isinstance(end, int) else 2**31 - 1 for _, end, *_ in ordered]  # of a batch of any size, all
        name = self.add("Slice", [x.name], x.axes, starts=starts, ends=ends).name
        steps = {axis: step for _, _, step, axis in parts if step != 1}
        if not steps:
            return OnnxTensor(name, x.axes)
        if not steps.keys() <= {2, 3} or len(x.axes) != 4:
            raise ValueError("the network slices channels or images in steps, which opset 9 does not have")
        strides = [steps.get(2, 1), steps.get(3, 1)]
        return self.add("MaxPool", [name], x.axes, kernel_shape=[1, 1], strides=strides)

    def put(self, x: OnnxTensor, new: OnnxTensor, *rest: Any) -> OnnxTensor:
        """Replaces a part of `x` along one axis by `new`: joins `x` before the part, `new`, and `x` behind the part."""
        *starts, shape, part = rest
        (axis,) = (axis for axis, (whole, own) in enumerate(zip(shape, part, strict=True)) if whole != own)
        first, last = int(starts[axis]), int(starts[axis]) + part[axis]
        pieces = [self.name_of(new, x.axes)]
        for start, end in ((0, first), (last, shape[axis])):
            limits = [[0] * len(shape), list(shape)]
            limits[0][axis], limits[1][axis] = start, end
            if start < end:
                piece = self.slice(x, shape, tuple(limits[0]), tuple(limits[1]), None).name
                pieces = [piece, *pieces] if start == 0 else [*pieces, piece]
        return self.add("Concat", pieces, x.axes, axis=x.axes[axis])

    def pad(self, x: OnnxTensor, value: np.ndarray, config: Sequence[tuple[int, int, int]]) -> OnnxTensor:
        """Adds a border of one value."""
        low, high, _ = np.asarray(config, np.int64)[np.argsort(x.axes)].T
        if self.opset < 11:
            return self.add("Pad", [x.name], x.axes, pads=[*low.tolist(), *high.tolist()], value=float(value))
        return self.add("Pad", [x.name, self.constant(np.concatenate([low, high])), self.constant(value)], x.axes)

    def pool(self, pool: str, equations: list[core.JaxprEqn], read: Any) -> OnnxTensor:
        """Adds one node for the many operations of a pool of `layers_flax`."""
        made = {var for equation in equations for var in equation.outvars}
        atoms = [atom for equation in equations for atom in equation.invars]
        source = next(atom for atom in atoms if atom not in made and isinstance(read(atom), OnnxTensor))
        x = self.name_of(read(source), CHANNELS_FIRST)
        if pool == "global_avg_pool":
            return self.add("Flatten", [self.add("GlobalAveragePool", [x], CHANNELS_FIRST).name], (0, 1), axis=1)
        if pool == "adaptive_avg_pool":
            return self.adaptive_pool(x, [equation for equation in equations if "dot" in equation.primitive.name], read)
        kind, window, stride = pool.split("_")[0], *map(int, re.findall(r"\d+", pool)[1:])
        parts = list(_inside(equations))
        windows = [e.params for e in parts if e.primitive.name == "reduce_window_max"]
        axes = sum(size > 1 for params in windows for size in params["window_dimensions"])
        configs = [params["padding"] for params in windows]
        configs = configs or [e.params["padding_config"] for e in parts if e.primitive.name == "pad"]
        pads = [max((config[axis][side] for config in configs), default=0) for side in (0, 1) for axis in (1, 2)]
        slices = sum(equation.primitive.name == "slice" for equation in parts)
        if (axes, slices) not in ((2, 0), (0, 2 * window)):
            raise ValueError(f"the network does {pool!r} several times in a row, which the ONNX export does not know")
        options: dict[str, Any] = dict(count_include_pad=0) if kind == "avg" else {}
        options |= dict(kernel_shape=[window] * 2, strides=[stride] * 2, pads=pads)
        return self.add({"max": "MaxPool", "avg": "AveragePool"}[kind], [x], CHANNELS_FIRST, **options)

    def adaptive_pool(self, x: str, dots: list[core.JaxprEqn], read: Any) -> OnnxTensor:
        """Adds products with the averaging weights along height, width or both."""
        for dot in dots:
            weights = read(dot.invars[0])  # (outputs, inputs)
            ((_, (axis,)), _) = dot.params["dimension_numbers"]
            factors = [self.constant(weights), x] if axis == 1 else [x, self.constant(weights.T)]
            x = self.add("MatMul", factors, CHANNELS_FIRST).name
        return OnnxTensor(x, CHANNELS_FIRST)


def _inner(equation: core.JaxprEqn) -> Any:
    """Returns the jaxpr that an operation calls, or None."""
    return equation.params.get("jaxpr", equation.params.get("call_jaxpr"))


def _inside(equations: Iterable[core.JaxprEqn]) -> Iterator[core.JaxprEqn]:
    """Yields operations; a call of a jaxpr is replaced by the operations of that jaxpr."""
    for equation in equations:
        inner = _inner(equation)
        yield from [equation] if inner is None else _inside(inner.eqns)


def _pool_of(equation: core.JaxprEqn) -> str | None:
    """Returns the name of the pool that an operation is a part of, from the operation's scope."""
    match = POOL.search(str(equation.source_info.name_stack))
    return match and match[0]
