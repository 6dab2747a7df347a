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

from common_flax.checks import check_positive
from layers_flax import BatchNorm
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
    optimiser: Callable[[Any], optax.GradientTransformation] = optax.adam,
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
        optimiser: rate → one of Optax's, that each block has to itself.
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
    def run(rate: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first, data = jax.random.split(jax.random.key(seed))
        variables = stack_init(block, count, first, shape)
        states = [optimiser(0.0).init(own["params"]) for own in variables]
        shown = inputs(block, jax.random.fold_in(data, steps), shape)
        before, errors = branch_sizes(block, variables, shown), []
        for key in jax.random.split(data, steps):
            x = inputs(block, key, shape)
            variables, states, error = learning_step(block, optimiser, variables, states, x, jnp.float32(rate))
            errors.append(error)
        windows = np.array(jax.device_get(errors), np.float64).reshape(-1, window).mean(1)
        return windows, np.asarray(before), np.asarray(branch_sizes(block, variables, shown))

    runs = [[run(rate, seed) for seed in seeds] for rate in rates]
    tried = np.nan_to_num([[windows[-1] for windows, _, _ in row] for row in runs], nan=np.inf)
    best = int(tried.mean(1).argmin())
    error, before, after = (np.array(column) for column in zip(*runs[best], strict=True))
    return StackRuns(count, block.shortcut is not None, rates[best], error, tried[best], tried, before, after)


def stack_init(block: Any, count: int, key: jax.Array, shape: tuple[int, ...]) -> list[Any]:
    """Variables of `count` blocks on top of each other, for inputs of `shape`."""
    return [_init(block, shape, own) for own in jax.random.split(key, count)]


@partial(jax.jit, static_argnums=(0, 1))
def _init(block: Any, shape: tuple[int, ...], key: jax.Array) -> Any:
    return block.init(key, jnp.zeros(shape))


def learning_step(
    block: Any,
    optimiser: Callable[[Any], optax.GradientTransformation],
    variables: Sequence[Any],
    states: Sequence[Any],
    x: jax.Array,
    rate: jax.Array,
) -> tuple[list[Any], list[Any], jax.Array]:
    """One step of every block down the gradient of `identity_error`: new variables and states, and the error before.

    Block by block, last to first, so that stacks of all sizes share three compiled programs.

    Args:
        block: of which all blocks of the stack are.
        optimiser: rate → one of Optax's, that each block has to itself.
        variables, states: of each block.
        x: inputs.
        rate: of learning.
    """
    seen = [x]
    for own in variables:
        seen.append(_forward(block, own, seen[-1]))
    error, cotangent = _error_and_gradient(seen.pop(), x)
    stepped = []
    for own, state, given in zip(reversed(variables), reversed(states), reversed(seen), strict=True):
        own, state, cotangent = _backward(block, optimiser, own, state, given, cotangent, rate)
        stepped.append((own, state))
    new_variables, new_states = zip(*reversed(stepped), strict=True)
    return list(new_variables), list(new_states), error


@partial(jax.jit, static_argnums=0)
def _forward(block: Any, variables: Any, x: jax.Array) -> jax.Array:
    return block.apply(variables, x, True)


@jax.jit
def _error_and_gradient(y: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(_error)(y, x)


def _error(y: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.square(y - x).sum() / jnp.square(x - x.mean((0, 1, 2))).sum()


@partial(jax.jit, static_argnums=(0, 1))
def _backward(
    block: Any, optimiser: Any, variables: Any, state: Any, x: jax.Array, cotangent: jax.Array, rate: jax.Array
) -> tuple[Any, Any, jax.Array]:
    """Takes a cotangent of a block's output to its input, and the block's parameters a step."""
    params = variables["params"]
    _, pull = jax.vjp(lambda params, x: block.apply({**variables, "params": params}, x, True), params, x)
    gradient, at_input = pull(cotangent)
    updates, state = optimiser(rate).update(gradient, state, params)
    return {**variables, "params": optax.apply_updates(params, updates)}, state, at_input


@partial(jax.jit, static_argnums=(0, 2))
def inputs(block: Any, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal values that the block can give back: of blocks that end in a ReLU, those below zero are zero."""
    x = jax.random.normal(key, shape)
    return x if block.pre_activation else jax.nn.relu(x)


def identity_error(block: Any, variables: Sequence[Any], x: jax.Array) -> jax.Array:
    """‖f(x) − x‖² / ‖x − mean‖² of a stack f, (), the mean channel by channel; f normalises by the batch."""
    y = x
    for own in variables:
        y = _forward(block, own, y)
    return _error(y, x)


def branch_sizes(block: Any, variables: Sequence[Any], x: jax.Array) -> jax.Array:
    """‖h(x)‖ / ‖x‖ of each block's branch h, (blocks,), x what the block is given."""
    sizes = []
    for own in variables:
        size, x = _branch_size(block, own, x)
        sizes.append(size)
    return jnp.stack(sizes)


@partial(jax.jit, static_argnums=0)
def _branch_size(block: Any, variables: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, branch = block.apply(variables, x, True, method="branches")
    return jnp.linalg.norm(branch) / jnp.linalg.norm(x), block.apply(variables, x, True)


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
