"""ONNX files of networks: the graph and its metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common_flax import __version__
from common_flax.optional import DISTRIBUTION, library
from weights_flax.export.onnx_graph import CHANNELS_FIRST, OnnxGraph, OnnxTensor
from weights_flax.look.trace import trace_network

OPSET = 17  # of 2022: most runtimes support it
OPSETS = range(9, 23)


def to_onnx(
    model: nn.Module,
    variables: Mapping[str, Any],
    image_shape: Sequence[int],
    metadata: Mapping[str, str] | None = None,
    opset: int = OPSET,
) -> bytes:
    """Returns the network in evaluation as an ONNX model in float32, from `images` to `logits`.

    Args:
        model: any network of these packages, or one made of `layers_flax`; its compute type is ignored.
        variables: {"params", "batch_stats"}.
        image_shape: (height, width, channels); `images` are (batch, channels, height, width).
        metadata: entries of the file's metadata beside architecture, image shape and layout.
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
    trace = trace_network(model, variables, image_shape, batch=batch)
    graph = OnnxGraph(trace, variables, opset)
    (logits,) = graph.write(trace.closed, [*jax.tree.leaves(variables), OnnxTensor("images", CHANNELS_FIRST)])
    last = graph.name_of(logits, (0, 1))
    height, width, channels = image_shape
    # The last node gives the logits itself: ONNX' converter to other opsets has no way back for an Identity.
    renamed = {last: "logits"}
    nodes = [
        helper.make_node(op, [renamed.get(x, x) for x in inputs], [renamed.get(out, out)], name, **options)
        for op, inputs, out, name, options in graph.nodes
    ]
    whole = helper.make_graph(
        nodes,
        type(model).__name__,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", channels, height, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", trace.closed.out_avals[0].shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    proto = helper.make_model(
        whole,
        producer_name=DISTRIBUTION,
        producer_version=__version__,
        ir_version=helper.find_min_ir_version_for([version := helper.make_opsetid("", opset)]),
        opset_imports=[version],
    )
    properties = {
        "architecture": _described(model),
        "image_shape": f"{height} {width} {channels}",
        "layout": "NCHW",
        **(metadata or {}),
    }
    helper.set_model_props(proto, properties)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _described(model: nn.Module) -> str:
    """Returns the class and its options that are not defaults: "ResNet(stage_sizes=(3, 4, 6, 3), block=BasicBlock)"."""
    options = [
        f"{field.name}={getattr(value, '__name__', value)}"
        for field in fields(model)
        if field.name not in ("parent", "name") and (value := getattr(model, field.name)) != field.default
    ]
    return f"{type(model).__name__}({', '.join(options)})"
