"""Families of functions, nested or not, and their distances to a target that lies outside all of them.

If F_1 ⊆ F_2 ⊆ …, the distance to a target can only fall; otherwise more layers may lead away from it (Zhang et al.,
Dive into Deep Learning, section 8.6.1; the construction is that of He 2015, section 1). Here F_L has the functions of
all towers of L blocks with parameters in a ball,

    F_L(R) = { x ↦ f(x; θ) : ‖θ‖ ≤ R },

the constraint that weight decay stands for. BatchNorm has fixed statistics, mean 0 and variance 1, so that a network is
a function of one x. A residual block with parameters 0 is the identity on the output of a ReLU, at no cost in ‖θ‖: the
families of residual towers are nested, for every R. Without shortcuts every layer needs norm to pass its input on, and
the layers share R: with n factors between input and output,

    |f(x) - f(y)| ≤ Π ‖W_i‖ |x - y| ≤ (R² / n)^(n/2) |x - y|,

the largest product for a sum of squares R². The bound falls to 0 with depth, so that a deep plain tower can compute
little more than constants. Without the ball a plain tower of constant width could equal a shallower one too (up to
rounding, and for fixed statistics); but such parameters are hard to learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common_flax.checks import check_positive
from resnet_flax import ResNet, deepen


@dataclass(frozen=True)
class Fits:
    """The nearest functions of each family that the search reached. Arrays are float64.

    Attributes:
        depths: (families,) blocks of each tower.
        distances: (families, problems): root mean square over the grid between target and fit.
        embedded: (families, problems): the same for the fit of the family before, embedded into this one; nan for the
            first family. For residual towers it equals the distance of the family before.
        norms: (families, problems): ‖θ‖ of the fits.
        values: (families, problems, points): the fits.
    """

    depths: np.ndarray
    distances: np.ndarray
    embedded: np.ndarray
    norms: np.ndarray
    values: np.ndarray


def fit_families(
    towers: Sequence[ResNet],
    points: np.ndarray,
    targets: np.ndarray,
    *,
    radius: float,
    steps: int,
    rate: float = 0.03,
    seeds: Sequence[int] | None = None,
) -> Fits:
    """Fits each target by each family: full-batch Adam with a cosine learning rate, projected onto the ball.

    Each search starts twice: from new parameters, and from the fit of the family before. In residual towers that fit is
    embedded by `resnet_flax.deepen` and is a member of the deeper family, so that the distance cannot grow. In plain
    towers the new blocks are the identity, and the whole is then scaled down into the ball.

    Args:
        towers: networks of basic blocks, one stage and one output, each deeper than the one before; run with fixed
            statistics. `ResNet` or `PlainNet`.
        points: (points,) inputs, each an image of one pixel for the network.
        targets: (problems, points); each is a problem of its own.
        radius: R of the ball ‖θ‖ ≤ R.
        steps: of Adam, from each start.
        rate: learning rate of Adam at the first step.
        seeds: (problems,) of the initialisation; None is 0, 1, 2, ….

    Raises:
        ValueError: a tower is not deeper than the one before, or of another kind; an argument is out of range.
    """
    check_positive("steps", steps)
    if not radius > 0:
        raise ValueError(f"radius must be over 0; given {radius}")
    seeds = range(len(targets)) if seeds is None else seeds
    if len(seeds) != len(targets):
        raise ValueError(f"seeds must be as many as targets: {len(targets)}; given {len(seeds)}")
    kinds = [type(tower).__name__ for tower in towers]
    if len(set(kinds)) != 1:
        raise ValueError(f"towers must be of one kind, ResNet or PlainNet; given {', '.join(kinds)}")
    depths = [sum(tower.stage_sizes) for tower in towers]
    if any(after <= before for before, after in pairwise(depths)):
        raise ValueError(f"each tower must be deeper than the one before; given depths {depths}")
    images = jnp.asarray(points, jnp.result_type(float))[:, None, None, None]
    goals = jnp.asarray(targets, images.dtype)
    keys = jax.vmap(jax.random.key)(jnp.asarray(list(seeds)))

    fits: list[_Fit] = []
    for i, tower in enumerate(towers):
        new = _init(tower, images[:1], keys, radius, 0)
        if i == 0:
            member = start = _init(tower, images[:1], keys, radius, 1)
        else:
            member, start = _embed(towers[i - 1], fits[-1].variables, tower, keys, radius)
        fits.append(_fit(tower, steps, rate, images, goals, radius, member, (new, start)))
    _, *columns = zip(*fits, strict=True)
    distances, embedded, norms, values = (np.stack(rows).astype(np.float64) for rows in columns)
    embedded[0] = np.nan
    return Fits(np.array(depths), distances, embedded, norms, values)


def gain_bound(tower: ResNet, radius: float) -> float:
    """The bound (R² / n)^(n/2) of the gain |f(x) - f(y)| / |x - y| of a plain tower; n counts its kernels and scales.

    Raises:
        ValueError: the tower has shortcuts, whose gain does not fall with depth.
    """
    if tower.has_shortcuts:
        raise ValueError(f"the bound is that of plain towers; given a {type(tower).__name__}")
    convolutions = 1 + 2 * sum(tower.stage_sizes)  # each with a BatchNorm
    factors = 2 * convolutions + 1
    return float((radius**2 / factors) ** (factors / 2))


def distance_bound(points: np.ndarray, target: np.ndarray, gain: float) -> float:
    """A lower bound of the distance, in root mean square, of any f with |f(x) - f(y)| ≤ gain |x - y| to the target.

    `points` and `target` are (points,). Around each point a, such a function stays in c ± gain |x - a|. Bisection gives
    the best c and with it a bound for each a; the largest bound is returned.
    """
    room = gain * np.abs(points[:, None] - points)  # (anchors, points)
    low, high = np.full(len(points), target.min()), np.full(len(points), target.max())
    for _ in range(60):
        c = (low + high) / 2
        above = np.maximum(target - c[:, None] - room, 0).sum(1)
        below = np.maximum(c[:, None] - target - room, 0).sum(1)
        low, high = np.where(above > below, c, low), np.where(above > below, high, c)
    excess = np.maximum(np.abs(target - low[:, None]) - room, 0)
    return float(np.sqrt(np.square(excess).mean(1)).max())


def reach(lengths: np.ndarray, distances: np.ndarray, level: float) -> np.ndarray:
    """Computes the length up to which, along each direction, a family comes within `level` of the targets.

    With each f a family has c f for 0 ≤ c ≤ 1, so that its distance to c t is at most c times its distance to t. This
    bound corrects fits that the optimizer missed, and makes the region one piece around 0.

    Args:
        lengths: (lengths,), rising, of the targets along each direction.
        distances: (..., lengths) to the targets, measured or exact.
        level: a distance.

    Returns:
        (...,) the length at which the distance passes the level, by linear interpolation; the last length where the
        distance never passes the level.
    """
    ratios = np.minimum.accumulate((distances / lengths)[..., ::-1], -1)[..., ::-1]
    corrected = np.concatenate([np.zeros((*distances.shape[:-1], 1)), ratios * lengths], -1)
    flat = corrected.reshape(-1, corrected.shape[-1])
    ends = np.concatenate([[0.0], lengths])
    return np.array([np.interp(level, row, ends) for row in flat]).reshape(distances.shape[:-1])


class _Fit(NamedTuple):
    """The fits of one family; the first axis of every array is the problem."""

    variables: Any
    distance: jax.Array
    of_member: jax.Array  # distance of `member`, before any step
    norm: jax.Array
    values: jax.Array


@partial(jax.jit, static_argnums=(0, 1, 2))
def _fit(
    tower: ResNet,
    steps: int,
    learning_rate: float,
    images: jax.Array,
    goals: jax.Array,
    radius: float,
    member: Any,
    starts: Any,
) -> _Fit:
    """Returns the best of `member` and of all steps of Adam from each of `starts`, for each problem."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def one(goal: jax.Array, member: Any, starts: Any) -> _Fit:
        stats = member["batch_stats"]

        def values(params: Any) -> jax.Array:
            y: Any = tower.apply({"params": params, "batch_stats": stats}, images)
            return y[:, 0]

        def error(params: Any) -> jax.Array:
            return jnp.square(values(params) - goal).mean()

        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state, best, least = carry
            now, gradient = jax.value_and_grad(error)(params)
            best = jax.tree.map(lambda new, old: jnp.where(now < least, new, old), params, best)
            updates, state = optimizer.update(gradient, state, params)
            params = _into_ball(optax.apply_updates(params, updates), radius)
            return (params, state, best, jnp.minimum(now, least)), None

        def search(start: Any) -> tuple[Any, jax.Array]:
            carry = start, optimizer.init(start), member["params"], first
            (_, _, best, least), _ = jax.lax.scan(step, carry, None, length=steps)
            return best, least

        first = error(member["params"])
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(start["params"] for start in starts))
        params, least = jax.vmap(search)(together)
        best = jax.tree.map(lambda leaf: leaf[least.argmin()], params)
        variables = {"params": best, "batch_stats": stats}
        return _Fit(variables, jnp.sqrt(least.min()), jnp.sqrt(first), optax.tree.norm(best), values(best))

    return jax.vmap(one)(goals, member, starts)


_into_ball = optax.projections.projection_l2_ball  # (params, radius) → the nearest parameters with ‖θ‖ ≤ radius


def _init(tower: ResNet, image: jax.Array, keys: jax.Array, radius: float, start: int) -> Any:
    """Draws initial variables in the ball: one set for each key, different for each number `start`."""

    def one(key: jax.Array) -> Any:
        variables = tower.init(jax.random.fold_in(key, start), image)
        return {**variables, "params": _into_ball(_to_the_centre(variables["params"]), radius)}

    return jax.jit(jax.vmap(one))(keys)


def _embed(before: ResNet, variables: Any, tower: ResNet, keys: jax.Array, radius: float) -> tuple[Any, Any]:
    """Returns the fits of a family as the nearest members of the deeper one, and the start of the search."""

    def nested(variables: Any, key: jax.Array) -> tuple[Any, Any]:
        deep = deepen(before, variables, tower, key=key)
        old = variables["params"]
        new = _to_the_centre({name: tree for name, tree in deep["params"].items() if name not in old})
        room = jnp.sqrt(jnp.maximum(radius**2 - optax.tree.norm(old, squared=True), 0))
        member = {**old, **_into_ball(new, room)}
        # New blocks of small norm change the function little when all parameters shrink into the ball.
        start = _into_ball({**old, **_into_ball(new, radius / 4)}, radius)
        return {**deep, "params": member}, {**deep, "params": start}

    def plain(variables: Any, key: jax.Array) -> tuple[Any, Any]:
        deep = tower.init(key, jnp.zeros((1, 1, 1, 1)))
        old = variables["params"]
        new = {name: _identity(tree) for name, tree in deep["params"].items() if name not in old}
        member = {**deep, "params": _into_ball({**old, **new}, radius)}
        return member, member

    return jax.jit(jax.vmap(nested if tower.has_shortcuts else plain))(variables, keys)


def _identity(block: Any) -> Any:
    """Parameters of a plain block that is the identity on the output of a ReLU: kernels of I, scales of 1."""

    def leaf(path: Any, x: jax.Array) -> jax.Array:
        if x.ndim == 4:
            return jnp.zeros_like(x).at[1, 1].set(jnp.eye(x.shape[-1], dtype=x.dtype))
        return jnp.ones_like(x) if path[-1].key == "scale" else jnp.zeros_like(x)

    return jax.tree_util.tree_map_with_path(leaf, block)


def _to_the_centre(params: Any) -> Any:
    """Moves the variance of 3×3 kernels to their centre, because on one pixel all other weights see padding."""

    def move(leaf: jax.Array) -> jax.Array:
        return jnp.zeros_like(leaf).at[1, 1].set(3 * leaf[1, 1]) if leaf.ndim == 4 else leaf

    return jax.tree.map(move, params)
