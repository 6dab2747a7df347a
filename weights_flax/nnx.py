"""Networks for users of NNX: an `nnx.Module` around a network, and the way back to its variables.

`flax.nnx.bridge.ToNNX` wraps networks too, but it accepts no existing variables, updates running statistics only if
each call requests them, and ignores `train()` and `eval()`, all without a warning. `weights_flax` does not import this
module, since NNX loads Optax.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn, nnx


class NNXNetwork(nnx.Module):
    """A network and its variables in one object, for `nnx.jit`, `nnx.grad` and `nnx.Optimizer`.

    `to_nnx` makes it, in evaluation mode; `train()` and `eval()` switch the mode, also when called on a module that
    contains this one.

    Attributes:
        model: the network.
        params: its parameters, a tree of `nnx.Param`.
        batch_stats: BatchNorm's running statistics, a tree of `nnx.BatchStat`.
        rngs: the source of dropout's keys, or None.
        use_running_average: True in evaluation, where running statistics normalise and nothing is dropped.
    """

    def __init__(self, model: nn.Module, variables: Mapping[str, Any], rngs: nnx.Rngs | None = None):
        self.model = model
        self.params = nnx.data(jax.tree.map(nnx.Param, dict(variables["params"])))
        self.batch_stats = nnx.data(jax.tree.map(nnx.BatchStat, dict(variables["batch_stats"])))
        self.rngs = rngs
        self.use_running_average = True

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, num_classes), float32 or wider.

        In training, BatchNorm uses the batch's statistics, and this module's running statistics are updated.
        """
        variables = from_nnx(self)
        if self.use_running_average:
            return self.model.apply(variables, images, train=False)  # type: ignore[return-value]
        rngs = None if self.rngs is None else {"dropout": self.rngs.dropout()}
        logits, updates = self.model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        nnx.update(self.batch_stats, updates["batch_stats"])
        return logits


def to_nnx(model: nn.Module, variables: Mapping[str, Any], rngs: nnx.Rngs | None = None) -> NNXNetwork:
    """Returns an `nnx.Module` that computes bit for bit the same as `model` with these variables::

        module = to_nnx(model, variables)
        optimizer = nnx.Optimizer(module, optax.sgd(0.1), wrt=nnx.Param)

        @nnx.jit
        def train_step(module, optimizer, images, labels):
            loss_of = lambda module: loss(module(images), labels)
            value, gradients = nnx.value_and_grad(loss_of)(module)
            optimizer.update(module, gradients)
            return value

        module.train()
        train_step(module, optimizer, images, labels)
        variables = from_nnx(module)

    Args:
        model: any network of either family.
        variables: {"params", "batch_stats"}, which stay unchanged.
        rngs: keys for dropout and stochastic depth, as `nnx.Rngs(dropout=0)`; each call in training takes the next key.
    """
    return NNXNetwork(model, variables, rngs)


def from_nnx(module: NNXNetwork) -> dict[str, Any]:
    """Returns the current variables of `module`: {"params", "batch_stats"}, for `model.apply`."""
    trees = {"params": module.params, "batch_stats": module.batch_stats}
    return jax.tree.map(lambda variable: variable[...], trees, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
