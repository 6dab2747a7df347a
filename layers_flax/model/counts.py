"""Sizes of a network, from shapes alone: nothing is computed, and no memory is needed."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import jax
from flax import linen as nn
from jax.extend import core

from layers_flax.conv.choices import plain_convolutions
from layers_flax.model.shapes import image_by_shape, variables_by_shape


def count_parameters(model: nn.Module, image_shape: Sequence[int] = (224, 224, 3)) -> int:
    """The number of trainable parameters of `model` for images of `image_shape`, (height, width, channels)."""
    variables = variables_by_shape(model, image_shape)
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def count_multiply_adds(model: nn.Module, image_shape: Sequence[int] = (224, 224, 3)) -> int:
    """Multiply-adds of convolutions and dense layers in one forward pass of one image of `image_shape`.

    They are those of the mathematics: output pixels by kernel, of grouped convolutions too, whatever formula runs.
    """
    variables = variables_by_shape(model, image_shape)
    with plain_convolutions():
        return _count(jax.make_jaxpr(partial(model.apply, train=False))(variables, image_by_shape(image_shape)).jaxpr)


def multiply_adds_of(equation: core.JaxprEqn) -> int:
    """Multiply-adds of convolutions and dots in one equation of a jaxpr, and in the jaxprs within it."""
    out: Any = equation.outvars[0].aval
    operands: list[Any] = [operand.aval for operand in equation.invars]
    if equation.primitive.name == "conv_general_dilated":
        # HWIO kernel: each output is a sum over all of the kernel but its output channels.
        kernel = operands[1].shape
        return prod(out.shape) * prod(kernel) // kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    if equation.primitive.name == "dot_general":
        if min(operand.ndim for operand in operands) < 2:
            return 0  # a vector is no kernel: the global mean is a dot with ones
        (contracted, _), _ = equation.params["dimension_numbers"]
        return prod(out.shape) * prod(operands[0].shape[axis] for axis in contracted)
    repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    return repeats * sum(_count(inner) for inner in _inner(equation.params))


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(multiply_adds_of(equation) for equation in jaxpr.eqns)


def _inner(params: dict) -> list[core.Jaxpr]:
    """The jaxprs among an equation's parameters (`jit`, `scan`, `remat`, `custom_jvp`)."""
    found = [params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in params]
    return [getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in found]
