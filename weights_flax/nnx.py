"""Networks for users of NNX: an `nnx.Module` around a network, and its variables back.

`flax.nnx.bridge.ToNNX` wraps them too, but takes no given variables, leaves the running statistics as they are unless
each call asks for them, and does not hear `train()` and `eval()`, all of it without a word. Not imported by
`weights_flax` itself, for NNX loads Optax.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import nnx


class NNXNetwork(nnx.Module):
    """A network and its variables in one object, as `nnx.jit`, `nnx.grad` and `nnx.Optimizer` take them.

    Made by `to_nnx`, in evaluation; `train()` and `eval()` switch, of this module or of one that it is part of.

    Attributes:
        model: the network.
        params: its parameters, a tree of `nnx.Param`.
        batch_stats: BatchNorm's running statistics, a tree of `nnx.BatchStat`.
        rngs: where dropout's keys are from, or None.
        use_running_average: evaluation, where running statistics normalise and nothing is dropped.
    """

    def __init__(self, model: nn.Module, variables: Mapping[str, Any], rngs: nnx.Rngs | None = None):
        self.model = model
        self.params = nnx.data(jax.tree.map(nnx.Param, dict(variables["params"])))
        self.batch_stats = nnx.data(jax.tree.map(nnx.BatchStat, dict(variables["batch_stats"])))
        self.rngs = rngs
        self.use_running_average = True

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (batch, height, width, channels) to logits (batch, num_classes), float32 or wider.

        In training, BatchNorm takes the batch's statistics and updates the running ones, which are kept here.
        """
        variables = from_nnx(self)
        if self.use_running_average:
            return self.model.apply(variables, images, train=False)  # type: ignore[return-value]
        rngs = None if self.rngs is None else {"dropout": self.rngs.dropout()}
        logits, updates = self.model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        nnx.update(self.batch_stats, updates["batch_stats"])
        return logits


def to_nnx(model: nn.Module, variables: Mapping[str, Any], rngs: nnx.Rngs | None = None) -> NNXNetwork:
    """An `nnx.Module` that computes what `model` does with these variables, to the last bit::

        module = to_nnx(model, variables)
        optimiser = nnx.Optimizer(module, optax.sgd(0.1), wrt=nnx.Param)

        @nnx.jit
        def train_step(module, optimiser, images, labels):
            loss_of = lambda module: loss(module(images), labels)
            value, gradients = nnx.value_and_grad(loss_of)(module)
            optimiser.update(module, gradients)
            return value

        module.train()
        train_step(module, optimiser, images, labels)
        variables = from_nnx(module)

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}, which are not changed.
        rngs: keys of dropout and stochastic depth, as `nnx.Rngs(dropout=0)`; its own stream, which each call in
            training moves on by one.
    """
    return NNXNetwork(model, variables, rngs)


def from_nnx(module: NNXNetwork) -> dict[str, Any]:
    """The variables that `module` holds now: {"params", "batch_stats"}, as `model.apply` takes them."""
    trees = {"params": module.params, "batch_stats": module.batch_stats}
    return jax.tree.map(lambda variable: variable[...], trees, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
