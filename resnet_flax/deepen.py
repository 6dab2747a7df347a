"""A residual network inside a deeper one: new blocks are the identity (He 2015, section 1, "by construction")."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from layers_flax import carry_over, check_deeper, variables_by_shape
from resnet_flax.resnet import PlainNet, ResNet

# These options change neither the variables nor the logits of evaluation.
MAY_DIFFER = ("zero_init", "drop_path", "remat", "scan", "axis_name")


def deepen(model: ResNet, variables: Any, deeper: ResNet, *, key: jax.Array | None = None) -> dict[str, Any]:
    """Variables with which `deeper` computes the same as `model` with `variables`, bit for bit.

    New blocks stand at the end of each stage and start as with `zero_init`: the last BatchNorm scale of
    relu(x + F(x)) is 0, the last convolution of x + F(x) in v2. F(x) is then exactly 0 for finite x, whatever the
    statistics, in evaluation and in training (without `drop_path`), and x + 0 is x. The zeros have gradients, so that
    training goes on from there, and with it the rest of the new blocks, which is drawn as in a new network.

    Args:
        model: a residual network; a block of one's own must start as its shortcut with `zero_init`.
        variables: its {"params", "batch_stats"}.
        deeper: the same network with more blocks in any stage; `zero_init`, `drop_path`, `remat`, `scan` and
            `axis_name` may differ.
        key: of the initialisation of new blocks; None is `jax.random.key(0)`.

    Returns:
        {"params", "batch_stats"} of `deeper`, of its `param_dtype`; old leaves are the same arrays.

    Raises:
        ValueError: an option differs, a stage would shrink, the variables are not those of `model`, or new blocks
            could not be the identity: those of a plain network, which have no shortcut to leave x alone, and those
            with shortcut "C", which project it.
    """
    _check(model, deeper)
    fresh = {name: dict(tree) for name, tree in variables.items()}
    network = deeper.clone(zero_init=True, remat=False, parent=None, name=None).bind({})
    key = jax.random.key(0) if key is None else key
    for stage, (old, blocks) in enumerate(zip(model.stage_sizes, network.stages, strict=True)):
        made = _draw(blocks[-1], len(blocks) - old, jax.random.fold_in(key, stage)) if len(blocks) > old else []
        for block, new in zip(blocks[old:], made, strict=True):
            for collection, tree in new.items():
                fresh[collection][str(block.name)] = tree
    shapes = variables_by_shape(deeper, (32, 32, variables["params"]["conv1"]["kernel"].shape[2]))
    # Every old leaf must exist and fit; new ones do by construction.
    return carry_over(fresh, shapes, lambda names: False, lambda names, old, new: old)


def deepen_state(model: ResNet, state: Any, deeper: ResNet, fresh: Any) -> Any:
    """An optimizer's state for the deeper network: `layers_flax.carry_over` from `state` into `fresh`.

    Raises:
        ValueError: as `deepen`; or the two states do not belong to the same optimizer.
    """
    _check(model, deeper)
    sizes = zip(model.stage_sizes, deeper.stage_sizes, strict=True)
    new = {f"layer{i + 1}_{j}" for i, (few, many) in enumerate(sizes) for j in range(few, many)}
    return carry_over(state, fresh, lambda names: not new.isdisjoint(names), lambda names, old, leaf: old)


def _check(model: ResNet, deeper: ResNet) -> None:
    if isinstance(model, PlainNet) or not isinstance(model, ResNet) or model.shortcut is None:
        raise ValueError(
            f"{type(model).__name__} has no shortcuts: a new block relu(F(x)) could give x back only up to rounding, "
            "for one batch's statistics"
        )
    if model.shortcut == "C":
        raise ValueError("with shortcut 'C' a new block projects x, and is not the identity; it needs 'A' or 'B'")
    check_deeper(model, deeper, "stage_sizes", MAY_DIFFER)


def _draw(block: Any, count: int, key: jax.Array) -> Sequence[Any]:
    """Variables of `count` new blocks, all like `block`: one program draws them all."""
    free: nn.Module = block.clone(parent=None, name=None)
    images = jnp.zeros((1, 1, 1, block.features * block.expansion), jnp.float32)

    def draw(key: jax.Array) -> Any:
        variables, x = free.init(key, images), jax.random.uniform(key, images.shape)
        skip, residual = free.apply(variables, x, method="branches")
        return variables, jnp.all(skip == x) & jnp.all(residual == 0)

    stacked, identity = jax.jit(jax.vmap(draw))(jax.random.split(key, count))
    if not isinstance(identity, jax.core.Tracer) and not identity.all():  # under a transformation it has no value
        raise ValueError(
            f"a new {type(block).__name__} is not the identity: with zero_init its residual must be 0, its shortcut x"
        )
    return [jax.tree.map(lambda leaf, at=at: leaf[at], stacked) for at in range(count)]
