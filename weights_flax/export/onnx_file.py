"""ONNX files of networks: the graph and its metadata."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common_flax import __version__
from common_flax.optional import DISTRIBUTION, library
from weights_flax.export.metadata import ExportCard, to_strings
from weights_flax.export.onnx_graph import CHANNELS_FIRST, OnnxGraph, OnnxTensor
from weights_flax.look.trace import trace_network

OPSET = 17  # of 2022: most runtimes support it
OPSETS = range(9, 23)


def to_onnx(
    model: nn.Module,
    variables: Mapping[str, Any],
    card: ExportCard,
    metadata: Mapping[str, str] | None = None,
    opset: int = OPSET,
) -> bytes:
    """Returns the network in evaluation as an ONNX model that computes in float32, as its card describes it.

    Args:
        model: any network of these packages, or one made of `layers_flax`; its compute type is ignored.
        variables: {"params", "batch_stats"}.
        card: the names of input and output, the shape of images, and normalisation and softmax (or sigmoid) within the
            graph; it becomes the file's metadata.
        metadata: more entries of the file's metadata.
        opset: the version of ONNX' operations, one of `OPSETS`.

    Raises:
        ValueError: the package onnx is not installed, or the network has an operation that is not supported.
    """
    onnx = library("onnx", extra="onnx", purpose="format 'onnx'")
    TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper
    types = dict(dtype=None, param_dtype=jnp.float32, remat=False, scan=False)
    model = model.clone(**{name: value for name, value in types.items() if hasattr(model, name)})
    variables = jax.tree.map(partial(np.asarray, dtype=np.float32), dict(variables))
    (batch,) = jax.export.symbolic_shape("batch")
    trace = trace_network(model, variables, card.image_shape, batch=batch)
    graph = OnnxGraph(trace, variables, opset)
    kind = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}[card.dtype]
    images = OnnxTensor(card.input, CHANNELS_FIRST)
    if card.mean is not None and card.std is not None and card.pixels == "0..255":
        images = _normalised(graph, images, card.mean, card.std, TensorProto.FLOAT)
    (logits,) = graph.write(trace.closed, [*jax.tree.leaves(variables), images])
    last = graph.name_of(logits, (0, 1))
    if card.output == "probabilities":
        options: dict[str, Any] = {} if card.multi_label else {"axis": 1}
        last = graph.add("Sigmoid" if card.multi_label else "Softmax", [last], (0, 1), **options).name
    height, width, channels = card.image_shape
    # The last node gives the output itself: ONNX' converter to other opsets has no way back for an Identity.
    renamed = {last: card.output}
    nodes = [
        helper.make_node(op, [renamed.get(x, x) for x in inputs], [renamed.get(out, out)], name, **options)
        for op, inputs, out, name, options in graph.nodes
    ]
    whole = helper.make_graph(
        nodes,
        type(model).__name__,
        [helper.make_tensor_value_info(card.input, kind, ["batch", channels, height, width])],
        [helper.make_tensor_value_info(card.output, TensorProto.FLOAT, ["batch", trace.closed.out_avals[0].shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    proto = helper.make_model(
        whole,
        producer_name=DISTRIBUTION,
        producer_version=__version__,
        ir_version=helper.find_min_ir_version_for([version := helper.make_opsetid("", opset)]),
        opset_imports=[version],
    )
    helper.set_model_props(proto, to_strings(card) | dict(metadata or {}))
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _normalised(
    graph: OnnxGraph, pixels: OnnxTensor, mean: Sequence[float], std: Sequence[float], kind: int
) -> OnnxTensor:
    """Adds (pixel / 255 - mean) / std, in the order and the type in which `normalise` computes it."""
    value = graph.add("Cast", [pixels.name], CHANNELS_FIRST, to=kind)
    for op, numbers in (("Div", [255.0]), ("Sub", mean), ("Div", std)):
        constant = graph.constant(np.asarray(numbers, np.float32).reshape(1, -1, 1, 1))
        value = graph.add(op, [value.name, constant], CHANNELS_FIRST)
    return value
