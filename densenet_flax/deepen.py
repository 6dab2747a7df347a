"""A DenseNet inside a deeper one: old layers read new features with weight 0."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from densenet_flax.densenet import DenseNet
from layers_flax import carry_over, check_deeper

# These options change neither the variables nor the logits of evaluation.
MAY_DIFFER = ("dropout", "remat", "axis_name")


def deepen(model: DenseNet, variables: Any, deeper: DenseNet, *, key: jax.Array | None = None) -> dict[str, Any]:
    """Variables with which `deeper` computes the same as `model` with `variables`, up to rounding.

    New layers stand at the end of each block, so that a block's old features keep their order: x, h_1 … h_n, then
    h_{n+1} …. Transitions keep a share θ of more channels than before: their new outputs follow the old ones. Old
    layers, old outputs of transitions and the classifier read new features with weight 0, whose gradient is not 0.
    BatchNorm works channel by channel, so that old features stay the same in training too. New layers and new outputs
    of transitions are drawn as in a new network, and read all features.

    Args:
        model: a DenseNet.
        variables: its {"params", "batch_stats"}.
        deeper: the same network with more layers in any block; `dropout`, `remat` and `axis_name` may differ.
        key: for the initialisation of new layers and outputs; None is `jax.random.key(0)`.

    Returns:
        {"params", "batch_stats"} of `deeper`, of its `param_dtype`. Logits differ by the order in which sums are
        taken: about 1e-6 of their scale in float32.

    Raises:
        ValueError: an option differs, a block would shrink, or the variables are not those of `model`.
    """
    _check(model, deeper)
    channels = variables["params"]["conv0"]["kernel"].shape[2]
    images = jnp.zeros((1, 32, 32, channels), jnp.float32)
    fresh = jax.jit(partial(deeper.init, train=False))(jax.random.key(0) if key is None else key, images)
    return deepen_state(model, variables, deeper, dict(fresh))


def deepen_state(model: DenseNet, state: Any, deeper: DenseNet, fresh: Any) -> Any:
    """An optimizer's state for the deeper network: `layers_flax.carry_over` from `state` into `fresh`.

    Raises:
        ValueError: as `deepen`; or the two states do not belong to the same optimizer.
    """
    _check(model, deeper)
    places = _places(model, deeper)
    new = {
        (f"denseblock{i + 1}", f"denselayer{j + 1}")
        for i, (few, many) in enumerate(zip(model.block_sizes, deeper.block_sizes, strict=True))
        for j in range(few, many)
    }

    def is_new(names: Sequence[str]) -> bool:
        return not new.isdisjoint(pairwise(names))

    def put(names: Sequence[str], old: Any, leaf: Any) -> Any:
        module = next((names[i:-1] for i in range(len(names)) if names[i:-1] in places), None)
        if module is None or names[-2:] == ("classifier", "bias"):
            return old
        return _put(old, leaf, places[module])

    return carry_over(state, fresh, is_new, put)


def _check(model: DenseNet, deeper: DenseNet) -> None:
    if not isinstance(model, DenseNet):
        raise ValueError(f"a DenseNet goes into a deeper one; given a {type(model).__name__}")
    check_deeper(model, deeper, "block_sizes", MAY_DIFFER)


def _places(model: DenseNet, deeper: DenseNet) -> dict[Sequence[str], np.ndarray]:
    """For each module that reads a block's features: the new places of the features that it read before."""
    growth = model.growth_rate
    channels = wider = model.stem_width or 2 * growth
    places: dict[Sequence[str], np.ndarray] = {}
    for i, (few, many) in enumerate(zip(model.block_sizes, deeper.block_sizes, strict=True)):
        if i > 0:
            channels, wider = int(channels * model.compression), int(wider * model.compression)
        place = np.concatenate([np.arange(channels), wider + np.arange(few * growth)])
        for j in range(few):
            for name in ("norm1", "conv1"):
                seen = place[: channels + j * growth]
                places[f"denseblock{i + 1}", f"denselayer{j + 1}", name] = seen
        channels, wider = channels + few * growth, wider + many * growth
        last = i == len(model.block_sizes) - 1
        readers = [("norm5",), ("classifier",)] if last else [(f"transition{i + 1}", name) for name in ("norm", "conv")]
        places |= dict.fromkeys(readers, place)
    return places


def _put(old: Any, leaf: Any, place: np.ndarray) -> Any:
    """The fresh `leaf` with the `old` one in it; weights from new inputs to old outputs are zero."""
    matrix = jnp.ndim(leaf) > 1
    if jnp.ndim(old) != jnp.ndim(leaf) or old.shape[-2 if matrix else -1] != len(place):
        return old
    new = np.array(leaf)
    if matrix:
        outputs = old.shape[-1]
        new[..., :outputs] = 0
        new[..., place, :outputs] = old
    else:
        new[place] = old
    return jnp.asarray(new)
