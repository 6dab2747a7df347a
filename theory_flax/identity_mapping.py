"""Stacks of layers learn the identity badly, stacks of residuals well (He 2015, sections 3.1 and 4.2, figure 7).

If added layers were easily driven to the identity, a deeper network would train no worse than a shallow one. A stack of
layers has to build it, y = f(x) with f near x; a stack of residuals has to bring its branches near zero. In trained
networks the responses of layers show the same: those of residual networks are smaller.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from layers_flax import BatchNorm, check_positive
from resnet_flax import ResNet


@dataclass(frozen=True)
class StackRuns:
    """A stack of blocks that learned the identity from several seeds, at the best of several rates.

    Attributes:
        blocks: in the stack.
        shortcuts: whether they have them.
        rate: of learning: that of the least mean final error.
        error: (seeds, windows) ‖f(x) − x‖² / ‖x − mean‖² on new inputs, mean over windows of steps: 0 is the identity,
            1 is as good as a constant. The blocks normalise by the batch, as in training.
        final_error: (seeds,) of the last window.
        tried: (rates, seeds) the final error at every rate; infinite where it is not finite.
        branches_before, branches_after: (seeds, blocks) ‖h(x)‖ / ‖x‖ of each block's branch, x what it is given.
    """

    blocks: int
    shortcuts: bool
    rate: float
    error: np.ndarray
    final_error: np.ndarray
    tried: np.ndarray
    branches_before: np.ndarray
    branches_after: np.ndarray


@dataclass(frozen=True)
class IdentityMapping:
    """Plain and residual stacks beside each other.

    Attributes:
        block: name of the block.
        window: steps that an error is the mean of.
        rates, seeds: of all stacks.
        plain, residual: the stacks, from few blocks to many.
    """

    block: str
    window: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    plain: tuple[StackRuns, ...]
    residual: tuple[StackRuns, ...]


def sgd(rate: Any) -> optax.GradientTransformation:
    """SGD with momentum 0.9."""
    return optax.sgd(rate, 0.9)


def identity_mapping(
    block: Any,
    *,
    counts: Sequence[int],
    rates: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    window: int,
    features: int = 8,
    size: int = 8,
    batch_size: int = 16,
    optimiser: Callable[[Any], optax.GradientTransformation] = sgd,
    **options: Any,
) -> IdentityMapping:
    """Trains stacks of blocks to give back what they are given, without shortcuts and with them.

    The inputs are new at every step: independent normal values; for blocks that end in a ReLU those below zero are
    zero, as such a block can give back no others. From one seed both kinds start with the same parameters and see the
    same inputs.

    Args:
        block: `BasicBlock`, `BottleneckBlock` or their pre-activation twins.
        counts: of blocks in the stacks.
        rates, seeds: every stack is trained at every rate from every seed.
        steps: of the optimiser.
        window: steps that an error is the mean of; divides `steps`.
        features: channels, as the block takes them.
        size: height and width of the inputs.
        batch_size: of inputs.
        optimiser: rate → one of Optax's.
        **options: of the block.

    Raises:
        ValueError: a number is not positive, or `window` does not divide `steps`.
    """
    for name, value in dict(steps=steps, window=window, features=features, size=size, batch_size=batch_size).items():
        check_positive(name, value)
    for name, values in (("counts", counts), ("rates", rates), ("seeds", seeds)):
        if not values:
            raise ValueError(f"{name} must hold at least one number; given {values!r}")
    if steps % window:
        raise ValueError(f"window must divide steps; given {window} and {steps}")
    shape = (batch_size, size, size, features * block.expansion)
    stacks = []
    for shortcut in (None, "B"):
        module = block(features, shortcut=shortcut, **options)
        stacks.append(tuple(_learn(module, count, shape, rates, seeds, steps, window, optimiser) for count in counts))
    return IdentityMapping(block.__name__, window, tuple(rates), tuple(seeds), *stacks)


def _learn(
    block: Any,
    count: int,
    shape: tuple[int, ...],
    rates: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    window: int,
    optimiser: Callable[[Any], optax.GradientTransformation],
) -> StackRuns:
    init = jax.jit(lambda key: stack_init(block, count, key, shape))
    draw = jax.jit(partial(inputs, block, shape=shape))
    sizes = jax.jit(partial(branch_sizes, block))

    @jax.jit
    def step(variables: Any, state: Any, key: jax.Array, rate: jax.Array) -> Any:
        params = [at["params"] for at in variables]

        def error_of(params: Any) -> jax.Array:
            stacked = [{**at, "params": own} for at, own in zip(variables, params, strict=True)]
            return identity_error(block, stacked, inputs(block, key, shape))

        error, gradients = jax.value_and_grad(error_of)(params)
        updates, state = optimiser(rate).update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return [{**at, "params": own} for at, own in zip(variables, params, strict=True)], state, error

    def run(rate: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first, data = jax.random.split(jax.random.key(seed))
        variables = init(first)
        state = optimiser(0.0).init([at["params"] for at in variables])
        shown = draw(jax.random.fold_in(data, steps))
        before, errors = sizes(variables, shown), []
        for key in jax.random.split(data, steps):
            variables, state, error = step(variables, state, key, jnp.float32(rate))
            errors.append(error)
        windows = np.array(jax.device_get(errors), np.float64).reshape(-1, window).mean(1)
        return windows, np.asarray(before), np.asarray(sizes(variables, shown))

    runs = [[run(rate, seed) for seed in seeds] for rate in rates]
    tried = np.nan_to_num([[windows[-1] for windows, _, _ in row] for row in runs], nan=np.inf)
    best = int(tried.mean(1).argmin())
    error, before, after = (np.array(column) for column in zip(*runs[best], strict=True))
    return StackRuns(count, block.shortcut is not None, rates[best], error, tried[best], tried, before, after)


def stack_init(block: Any, count: int, key: jax.Array, shape: tuple[int, ...]) -> list[Any]:
    """Variables of `count` blocks on top of each other, for inputs of `shape`."""
    x = jnp.zeros(shape)
    return [block.init(own, x) for own in jax.random.split(key, count)]


def inputs(block: Any, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal values that the block can give back: of blocks that end in a ReLU, those below zero are zero."""
    x = jax.random.normal(key, shape)
    return x if block.pre_activation else jax.nn.relu(x)


def identity_error(block: Any, variables: Sequence[Any], x: jax.Array) -> jax.Array:
    """‖f(x) − x‖² / ‖x − mean‖² of a stack f, (), the mean channel by channel; f normalises by the batch."""
    y = x
    for own in variables:
        y = block.apply(own, y, True)
    return jnp.square(y - x).sum() / jnp.square(x - x.mean((0, 1, 2))).sum()


def branch_sizes(block: Any, variables: Sequence[Any], x: jax.Array) -> jax.Array:
    """‖h(x)‖ / ‖x‖ of each block's branch h, (blocks,), x what the block is given."""
    sizes = []
    for own in variables:
        _, branch = block.apply(own, x, True, method="branches")
        sizes.append(jnp.linalg.norm(branch) / jnp.linalg.norm(x))
        x = block.apply(own, x, True)
    return jnp.stack(sizes)


def layer_responses(model: ResNet, variables: Any, images: jax.Array, *, train: bool = False) -> np.ndarray:
    """Standard deviations of a network's layer responses, first layer first, (layers,) float64 (He 2015, figure 7).

    A response is what a convolution gives after its BatchNorm, before activation and addition. The stem's is the
    first; projections of shortcuts are left out.

    Args:
        model: a post-activation ResNet or a plain network.
        variables: the model's.
        images: (batch, height, width, channels), normalised.
        train: normalise with the batch's statistics.

    Raises:
        ValueError: the network is another one: in pre-activation blocks BatchNorm stands before the layers.
    """
    if not isinstance(model, ResNet) or model.block.pre_activation:
        what = "pre-activation blocks" if isinstance(model, ResNet) else f"a {type(model).__name__}"
        raise ValueError(f"responses are after BatchNorm in a post-activation ResNet or plain network; given {what}")
    seen = _responses(model, train, variables, images)
    blocks = [block.name for stage in model.bind({}).stages for block in stage]
    norms = ("bn1", "bn2") if model.block.expansion == 1 else ("bn1", "bn2", "bn3")
    return np.array([seen["bn1"], *(seen[f"{block}/{norm}"] for block in blocks for norm in norms)], np.float64)


@partial(jax.jit, static_argnums=(0, 1))
def _responses(model: ResNet, train: bool, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    _, state = model.apply(
        variables,
        images,
        train,
        capture_intermediates=lambda module, _: isinstance(module, BatchNorm),
        mutable=["intermediates"],
    )
    leaves = jax.tree_util.tree_leaves_with_path(state["intermediates"])
    return {"/".join(str(key.key) for key in path[:-2]): leaf.std() for path, leaf in leaves}
