"""Stacks of layers learn the identity badly, stacks of residuals well (He 2015, sections 3.1 and 4.2, figure 7).

If added layers learned the identity easily, a deeper network would train no worse than a shallow one. A stack of layers
has to build the identity, y = f(x) with f near x; a stack of residuals only has to bring its branches near zero.
Trained networks show the same difference: the layers of residual networks have smaller responses.
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
from common_flax.renamed import renamed_keyword
from layers_flax import BatchNorm
from resnet_flax import ResNet

Optimizer = Callable[[Any], optax.GradientTransformation]


@dataclass(frozen=True)
class StackRuns:
    """A stack of blocks that learned the identity from several seeds, at the best of several learning rates.

    Attributes:
        blocks: number of blocks.
        shortcuts: True if the blocks have shortcuts.
        rate: the learning rate with the least mean final error.
        error: (seeds, windows) ‖f(x) − x‖² / ‖x − mean‖² on new inputs, mean over windows of steps: 0 is the identity,
            1 is as good as a constant. The blocks normalise by the batch, as in training.
        final_error: (seeds,) of the last window.
        tried: (learning rates, seeds) the final error at every learning rate; infinite where it is nan.
        branches_before, branches_after: (seeds, blocks) ‖h(x)‖ / ‖x‖ of each block's branch h and input x.
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
        window: number of steps that an error is averaged over.
        rates, seeds: the learning rates and seeds of all stacks.
        plain, residual: the stacks, from few blocks to many.
    """

    block: str
    window: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    plain: tuple[StackRuns, ...]
    residual: tuple[StackRuns, ...]


@partial(renamed_keyword, optimiser="optimizer")
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
    optimizer: Optimizer = optax.adam,
    **options: Any,
) -> IdentityMapping:
    """Trains stacks of blocks, without shortcuts and with them, to return their input.

    The inputs are new at every step: independent normal values. For blocks that end in a ReLU negative values become 0,
    because a ReLU cannot return them. From one seed both kinds start with the same parameters and see the same inputs.

    Args:
        block: `BasicBlock`, `BottleneckBlock`, or their pre-activation twins.
        counts: numbers of blocks in the stacks.
        rates, seeds: every stack is trained at every learning rate from every seed.
        steps: of the optimizer.
        window: number of steps that an error is averaged over; divides `steps`.
        features: channels, as the block takes them.
        size: height and width of the inputs.
        batch_size: number of inputs in a step.
        optimizer: learning rate → an optimizer of Optax, one for each block.
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

    def learn(module: Any, count: int) -> StackRuns:
        train = partial(_run, module, count, shape, steps, optimizer)
        runs = [[train(learning_rate, seed) for seed in seeds] for learning_rate in rates]
        windows = [[errors.reshape(-1, window).mean(1) for errors, _, _ in row] for row in runs]
        tried = np.nan_to_num([[errors[-1] for errors in row] for row in windows], nan=np.inf)
        best = int(tried.mean(1).argmin())
        _, before, after = map(np.array, zip(*runs[best], strict=True))
        shortcuts = module.shortcut is not None
        return StackRuns(count, shortcuts, rates[best], np.array(windows[best]), tried[best], tried, before, after)

    modules = [block(features, shortcut=shortcut, **options) for shortcut in (None, "B")]
    stacks = [tuple(learn(module, count) for count in counts) for module in modules]
    return IdentityMapping(block.__name__, window, tuple(rates), tuple(seeds), *stacks)


def _run(
    block: Any, count: int, shape: tuple[int, ...], steps: int, optimizer: Optimizer, learning_rate: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trains one stack; returns its error at each step, and the sizes of its branches before and after."""
    first, data = jax.random.split(jax.random.key(seed))
    variables = stack_init(block, count, first, shape)
    states = [optimizer(0.0).init(own["params"]) for own in variables]
    shown = inputs(block, jax.random.fold_in(data, steps), shape)
    before, errors = branch_sizes(block, variables, shown), []
    for key in jax.random.split(data, steps):
        x = inputs(block, key, shape)
        variables, states, error = learning_step(block, optimizer, variables, states, x, jnp.float32(learning_rate))
        errors.append(error)
    after = branch_sizes(block, variables, shown)
    return np.array(jax.device_get(errors), np.float64), np.asarray(before), np.asarray(after)


def stack_init(block: Any, count: int, key: jax.Array, shape: tuple[int, ...]) -> list[Any]:
    """Draws the variables of `count` blocks on top of each other, for inputs of `shape`."""
    return [_init(block, shape, own) for own in jax.random.split(key, count)]


@partial(jax.jit, static_argnums=(0, 1))
def _init(block: Any, shape: tuple[int, ...], key: jax.Array) -> Any:
    return block.init(key, jnp.zeros(shape))


def learning_step(
    block: Any,
    optimizer: Optimizer,
    variables: Sequence[Any],
    states: Sequence[Any],
    x: jax.Array,
    learning_rate: jax.Array,
) -> tuple[list[Any], list[Any], jax.Array]:
    """Steps every block down the gradient of `identity_error` at inputs x.

    The blocks are updated one by one, last to first, so that stacks of all sizes share three compiled programs. Returns
    the new variables and optimizer states of each block, and the error before the step.
    """
    seen = [x]
    for own in variables:
        seen.append(_forward(block, own, seen[-1]))
    error, cotangent = _error_and_gradient(seen.pop(), x)
    stepped = []
    for own, state, entered in zip(reversed(variables), reversed(states), reversed(seen), strict=True):
        own, state, cotangent = _backward(block, optimizer, own, state, entered, cotangent, learning_rate)
        stepped.append((own, state))
    new_variables, new_states = zip(*reversed(stepped), strict=True)
    return list(new_variables), list(new_states), error


@partial(jax.jit, static_argnums=0)
def _forward(block: Any, variables: Any, x: jax.Array) -> jax.Array:
    return block.apply(variables, x, True)


def _error(y: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.square(y - x).sum() / jnp.square(x - x.mean((0, 1, 2))).sum()


_error_and_gradient = jax.jit(jax.value_and_grad(_error))


@partial(jax.jit, static_argnums=(0, 1))
def _backward(
    block: Any, optimizer: Any, variables: Any, state: Any, x: jax.Array, cotangent: jax.Array, learning_rate: jax.Array
) -> tuple[Any, Any, jax.Array]:
    """Pulls a cotangent of a block's output back to its input, and updates the block's parameters."""
    params = variables["params"]
    _, pull = jax.vjp(lambda params, x: block.apply({**variables, "params": params}, x, True), params, x)
    gradient, at_input = pull(cotangent)
    updates, state = optimizer(learning_rate).update(gradient, state, params)
    return {**variables, "params": optax.apply_updates(params, updates)}, state, at_input


@partial(jax.jit, static_argnums=(0, 2))
def inputs(block: Any, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws normal values that the block can return: for blocks that end in a ReLU, negative values become 0."""
    x = jax.random.normal(key, shape)
    return x if block.pre_activation else jax.nn.relu(x)


def identity_error(block: Any, variables: Sequence[Any], x: jax.Array) -> jax.Array:
    """The error ‖f(x) − x‖² / ‖x − mean‖² of a stack f; the mean is per channel, and f normalises by the batch."""
    y = x
    for own in variables:
        y = _forward(block, own, y)
    return _error(y, x)


def branch_sizes(block: Any, variables: Sequence[Any], x: jax.Array) -> jax.Array:
    """The size ‖h(x)‖ / ‖x‖ of each block's branch h at its input x, (blocks,)."""
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

    A response is the output of a convolution after BatchNorm, before activation and addition. The stem comes first;
    projections of shortcuts are left out.

    Args:
        model: a post-activation ResNet or a plain network.
        variables: the model's.
        images: (batch, height, width, channels), normalised.
        train: normalise with the batch's statistics.

    Raises:
        ValueError: the network is of another kind; in pre-activation blocks BatchNorm stands before the convolutions.
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
    def is_norm(module: Any, _: str) -> bool:
        return isinstance(module, BatchNorm)

    _, state = model.apply(variables, images, train, capture_intermediates=is_norm, mutable=["intermediates"])
    leaves = jax.tree_util.tree_leaves_with_path(state["intermediates"])
    return {"/".join(str(key.key) for key in path[:-2]): leaf.std() for path, leaf in leaves}
