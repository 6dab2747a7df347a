"""Tables of a network's parts: output shapes, parameters, multiply-adds, memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import jax.numpy as jnp
from flax import linen as nn

from common_flax.checks import check_positive
from layers_flax import variables_by_shape
from weights_flax.look.features import stage_count
from weights_flax.look.trace import trace_network


@dataclass
class Row:
    """A part of a network: a stage, a block, a layer.

    Attributes:
        shape: of its output for one image: (height, width, channels) or (channels,).
        bytes: of its output for one image.
        parameters, multiply_adds: of the part and of all parts inside it.
        is_layer: True if it has parameters of its own.
    """

    shape: tuple[int, ...] = ()
    bytes: int = 0
    parameters: int = 0
    multiply_adds: int = 0
    is_layer: bool = False


def summary(model: nn.Module, image_shape: Sequence[int] = (224, 224, 3), *, depth: int = 2) -> str:
    """Returns a table of a network's parts in evaluation, and the memory that the network needs.

    Uses shapes only: nothing is computed, and no memory is taken. Parameters are the trainable ones; multiply-adds are
    those of convolutions and dense layers, for one image. Activations are the outputs of all layers with parameters,
    for one image; a compiler may keep fewer of them. 1 MB is 10⁶ bytes.

    Args:
        model: a `ResNet`, `PlainNet`, `VGG` or `DenseNet` with any options.
        image_shape: (height, width, channels).
        depth: levels of the table: 1, stem, stages and head; 2, their blocks; 3, the layers of a ResNet's blocks or the
            dense layers of a DenseNet's; 4, the convolutions of those dense layers.

    Returns:
        Lines of at most 100 characters.

    Raises:
        ValueError: the model is of another kind, the depth is not positive, or the images are too small for it.
    """
    check_positive("depth", depth)
    rows, network = table(model, image_shape), cast(Any, model)
    cells = [("part", "output", "parameters", "multiply-adds")]
    cells += [_cells("  " * (len(path) - 1) + path[-1], row) for path, row in rows.items() if 0 < len(path) <= depth]
    cells.append(_cells("total", rows[()]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]
    rule = "─" * len(lines[0])
    memory = {
        "parameters": rows[()].parameters * jnp.dtype(network.param_dtype).itemsize,
        "activations": sum(row.bytes for row in rows.values() if row.is_layer),
    }
    notes = [f"{name:<11}  {size / 1e6:>10,.2f} MB" for name, size in memory.items()]
    title = f"{type(model).__name__} for images of {_sizes(image_shape)}"
    return "\n".join([title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1], rule, *notes])


def table(model: nn.Module, image_shape: Sequence[int] = (224, 224, 3)) -> dict[tuple[str, ...], Row]:
    """Returns the parts of a network by their place, in the order in which they run; () is the whole network.

    A place begins with "stem", "stage0", … or "head"; modules follow by name, pools, which have no name, by kind and
    size: ("stage1", "transition1", "avg_pool_2x2_2"). Arguments and errors as in `summary`.
    """
    stage_count(model)
    trace = trace_network(model, variables_by_shape(model, image_shape), image_shape)
    rows: dict[tuple[str, ...], Row] = {(): Row()}
    for equation in trace.closed.eqns:
        out: Any = equation.outvars[0].aval
        for part in _from_the_whole(trace.place_of(equation)):
            if part not in rows:
                own = trace.parameters.get(part[1:], 0)
                rows[part] = Row(is_layer=own > 0)
                for above in _from_the_whole(part):
                    rows[above].parameters += own
            rows[part].multiply_adds += trace.multiply_adds_of(equation)
            # The last operation of a part makes its output.
            rows[part].shape, rows[part].bytes = out.shape[1:], prod(out.shape) * out.dtype.itemsize
    return rows


def _from_the_whole(place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (place[:end] for end in range(len(place) + 1))


def _cells(name: str, row: Row) -> tuple[str, str, str, str]:
    return name, _sizes(row.shape), f"{row.parameters:,}", f"{row.multiply_adds:,}"


def _sizes(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
