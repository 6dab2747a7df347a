"""The identity ∂L/∂x_1 = ∂L/∂x_L (1 + Σ ∂h_l/∂x_1) for the gradient of a residual network (He 2016, equation 5).

In a stage of pre-activation blocks x_L = x_1 + Σ h_l(x_l). With g = ∂L/∂x_L and c_l = (∂h_l(x_l)/∂x_1)ᵀ g,

    ∂L/∂x_1 = g + Σ c_l,

where h_l(x_l) is a function of x_1 through all blocks before. In other networks the "1" is the part of g that the
shortcuts alone carry from x_L to x_1, and g in c_l becomes the part that they carry to the place where h_l is added:

- in post-activation blocks, x_{l+1} = relu(x_l + h_l(x_l)), this part passes the masks of the ReLUs;
- in projections, where shapes change, it passes their transposes;
- in a DenseNet, x_{l+1} = [x_l, h_l(x_l)], it is the channels of g that belong to x_0, or to the output of layer l.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from theory_flax.base.blocks import Step, branches, join
from theory_flax.base.unroll import Walk, walk, walk_of

ROWS = 4  # cotangents in one call, always the same number, so that blocks of a kind share a program


@dataclass(frozen=True)
class GradientIdentity:
    """Both sides of the identity. Arrays have the shape of x_1, (batch, height, width, channels).

    Attributes:
        total: ∂L/∂x_1 by `jax.grad` of the real model.
        identity: the "1": ∂L/∂x_L, or the part of it that the shortcuts carry to x_1.
        residuals: the c_l, one by one.
        relative_error: ‖total − identity − Σ residuals‖ / ‖total‖.
        shares: (blocks,) the share of ‖total‖ that each c_l contributes, ⟨c_l, total⟩ / ‖total‖²; by one forward-mode
            pass.
        identity_share: the same for `identity`; with `shares` it adds up to 1.
        plain_error: ‖total − g − Σ (∂h_l(x_l)/∂x_1)ᵀ g‖ / ‖total‖, the error of the identity without the masks of
            post-activation stages; 0 up to rounding in pre-activation stages, None where shortcuts are not the
            identity.
    """

    total: np.ndarray
    identity: np.ndarray
    residuals: tuple[np.ndarray, ...]
    relative_error: float
    shares: np.ndarray
    identity_share: float
    plain_error: float | None


def gradient_identity(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int | None, train: bool = False
) -> GradientIdentity:
    """Computes both sides of the identity for one batch, exact to the rounding of the images' type.

    The left side is `jax.grad` of the real model from x_1 on. The right side is built from the blocks, last to first:
    one vector-Jacobian product of a block for each c_l that passes it.

    Args, errors: as `theory_flax.unroll`.
    """
    return _take_apart(walk(model, variables, images, labels, stage=stage, train=train))


def gradient_identity_of(
    x1: jax.Array, residuals: Sequence[Callable[[jax.Array], jax.Array]], loss_of: Callable[[jax.Array], jax.Array]
) -> GradientIdentity:
    """Computes both sides of the identity for x_{l+1} = x_l + h_l(x_l) with functions of your own.

    Args:
        x1: an array of any shape.
        residuals: h_1 … h_L, each from the shape of `x1` to the same shape.
        loss_of: x_L to a scalar.
    """
    return _take_apart(walk_of(jnp.asarray(x1), residuals, loss_of))


def _take_apart(start: Walk) -> GradientIdentity:
    total = jax.grad(start.loss_from)(start.x1)
    _, steps = backwards(start)
    # g is taken at the real model's own x_L, because BatchNorm of few values is so steep that rounding would change g.
    g = jax.grad(start.loss_of)(jax.vjp(start.whole, start.x1)[0])
    plain = all(_adds_its_input(step, x) for step, x, _ in steps)
    # Three kinds of cotangents go from x_L to x_1: the part of g that the shortcuts carry; Σ (∂h_l(x_l)/∂x)ᵀ g over
    # the blocks so far, for the identity without masks; and the c_l.
    rows, arriving = [g, jnp.zeros_like(g)], []
    for step, x, y in steps:
        parts = [step.before_join(y, row) for row in rows]
        arriving.append(parts[0][1])
        parts.append((jnp.zeros_like(parts[0][0]), parts[0][1]))  # c_l begins here
        parts[0] = parts[0][0], jnp.zeros_like(parts[0][1])
        if plain:
            parts[1] = parts[1][0], parts[1][1] + g
        rows = pull(step, x, parts)

    residuals = tuple(np.asarray(row) for row in rows[:1:-1])
    total, identity = np.asarray(total), np.asarray(rows[0])
    return GradientIdentity(
        total=total,
        identity=identity,
        residuals=residuals,
        relative_error=relative_error(total, identity, residuals),
        shares=_shares(start, arriving[::-1], total),
        identity_share=_inner(identity, total) / _inner(total, total),
        plain_error=relative_error(total, np.asarray(g), [np.asarray(rows[1])]) if plain else None,
    )


def relative_error(total: np.ndarray, identity: np.ndarray, residuals: Sequence[np.ndarray]) -> float:
    """The relative error ‖total − identity − Σ residuals‖ / ‖total‖, added up in float64."""
    rest = np.asarray(total, np.float64) - np.asarray(identity, np.float64)
    for residual in residuals:
        rest = rest - np.asarray(residual, np.float64)
    return float(np.linalg.norm(rest) / np.linalg.norm(np.asarray(total, np.float64)))


@dataclass(frozen=True)
class GradientProfile:
    """The part of the gradient that the shortcuts carry, from each block on. Arrays are float64, (blocks + 1,).

    Attributes:
        total: ‖∂L/∂x_l‖ at the input of each block, and ‖g‖ at the end.
        identity: norm of the part that the shortcuts alone carry from x_L to x_l.
        residual: ‖Σ‖, the norm of the rest.
        cosine: between the "1" and the Σ; nan at the end, where the rest is 0.
    """

    total: np.ndarray
    identity: np.ndarray
    residual: np.ndarray
    cosine: np.ndarray


@dataclass(frozen=True)
class PathLengths:
    """The gradient as a sum over paths, grouped by how many residuals a path passes (Veit 2016, section 4.3).

    Attributes:
        norms: (blocks + 1,) float64: the norm of the sum over all paths of length 0, 1, 2, …
        shares: (blocks + 1,) float64: the share of ‖∂L/∂x_1‖ that each length contributes; they add up to 1.
        counts: (blocks + 1,) float64: the number of paths of each length, "blocks over length".
    """

    norms: np.ndarray
    shares: np.ndarray
    counts: np.ndarray


def gradient_profile(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int | None, train: bool = False
) -> GradientProfile:
    """Computes ‖g‖, ‖Σ‖ and the cosine between them from every block on, by one backward pass.

    Args, errors: as `theory_flax.unroll`.
    """
    cotangents = both_ways(walk(model, variables, images, labels, stage=stage, train=train))
    rows = [_profile_row(*at_input) for at_input, _ in cotangents]
    return GradientProfile(*np.array(rows[::-1]).T)


def _profile_row(total: jax.Array, along: jax.Array) -> tuple[float, float, float, float]:
    whole, identity = np.asarray(total, np.float64), np.asarray(along, np.float64)
    rest = whole - identity
    total_norm, identity_norm, rest_norm = (float(np.linalg.norm(part)) for part in (whole, identity, rest))
    scale = identity_norm * rest_norm
    return total_norm, identity_norm, rest_norm, _inner(identity, rest) / scale if scale else math.nan


def path_lengths(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, stage: int | None, train: bool = False
) -> PathLengths:
    """Expands Π (1 + ∂h_l)ᵀ g by the number of factors ∂h_l, exactly: the lengths' sums add up to ∂L/∂x_1.

    Args, errors: as `theory_flax.unroll`.
    """
    start = walk(model, variables, images, labels, stage=stage, train=train)
    last, steps = backwards(start)
    sums = [jax.grad(start.loss_of)(last)]
    for step, x, y in steps:
        parts = [step.before_join(y, row) for row in sums]
        # A path takes the shortcut, or it takes the residual and gets longer by one.
        by_shortcut = [*(skip for skip, _ in parts), jnp.zeros_like(parts[0][0])]
        by_residual = [jnp.zeros_like(parts[0][1]), *(residual for _, residual in parts)]
        sums = pull(step, x, list(zip(by_shortcut, by_residual, strict=True)))
    by_length = np.asarray(sums, np.float64).reshape(len(sums), -1)
    total, blocks = by_length.sum(0), len(steps)
    return PathLengths(
        norms=np.linalg.norm(by_length, axis=1),
        shares=by_length @ total / (total @ total),
        counts=np.array([math.comb(blocks, length) for length in range(blocks + 1)], np.float64),
    )


def backwards(start: Walk) -> tuple[jax.Array, list[tuple[Step, jax.Array, jax.Array]]]:
    """Returns x_L, and each step with its input and its output, from the last step to the first."""
    values = [start.x1]
    for step in start.steps:
        values.append(step(values[-1]))
    return values[-1], list(zip(start.steps, values[:-1], values[1:], strict=True))[::-1]


def both_ways(start: Walk) -> Iterator[tuple[Sequence[jax.Array], Sequence[jax.Array]]]:
    """Takes two cotangents from x_L to x_1: the whole gradient, and the part that only shortcuts carry.

    Yields:
        Both at x_L, and an empty tuple; then for each block, last to first, both at its input and both at its residual.
    """
    last, steps = backwards(start)
    total = along = jax.grad(start.loss_of)(last)
    yield (total, along), ()
    for step, x, y in steps:
        whole, (by_shortcut, direct) = step.before_join(y, total), step.before_join(y, along)
        total, along = pull(step, x, [whole, (by_shortcut, jnp.zeros_like(direct))])
        yield (total, along), (whole[1], direct)


def _adds_its_input(step: Step, x: jax.Array) -> bool:
    """True if the step's shortcut is the identity, so that x_{l+1} is made of x_l + h_l(x_l)."""
    if step.join == "concatenate" or step.block.shortcut == "C":
        return False
    return jax.eval_shape(step.__call__, x).shape == x.shape


def pull(step: Step, x: jax.Array, cotangents: Sequence[tuple[jax.Array, jax.Array]]) -> list[jax.Array]:
    """Takes cotangents of a block's shortcut and residual to the block's input x."""
    pulled: list[jax.Array] = []
    for first in range(0, len(cotangents), ROWS):
        some = cotangents[first : first + ROWS]
        filled = [*some, *[jax.tree.map(jnp.zeros_like, some[0])] * (ROWS - len(some))]
        pulled += _pull_rows(step.block, step.train, step.variables, x, filled)[: len(some)]
    return pulled


@partial(jax.jit, static_argnums=(0, 1))
def _pull_rows(
    block: Any, train: bool, variables: Any, x: jax.Array, cotangents: Sequence[tuple[jax.Array, jax.Array]]
) -> list[jax.Array]:
    # vmap and not a loop: inside compiled loops XLA's convolutions on the CPU take many times as long.
    pull_back = jax.vjp(lambda x: branches(block, train, variables, x), x)[1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cotangents)
    return list(jax.vmap(pull_back)(stacked)[0])


@partial(jax.jit, static_argnums=(0, 1, 2))
def _push(
    block: Any, kind: str, train: bool, variables: Any, x: jax.Array, tangent: jax.Array, arriving: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the tangent of a block's output for a tangent of its input, and ⟨arriving, ∂h · tangent⟩."""
    (skip, residual), (skip_tangent, residual_tangent) = jax.jvp(
        lambda x: branches(block, train, variables, x), (x,), (tangent,)
    )
    _, pushed = jax.jvp(partial(join, kind), (skip, residual), (skip_tangent, residual_tangent))
    return pushed, jnp.vdot(arriving, residual_tangent)


def _shares(start: Walk, arriving: Sequence[jax.Array], total: np.ndarray) -> np.ndarray:
    """The share ⟨c_l, total⟩ / ‖total‖² of each block, computed from the tangent `total` at x_1."""
    norm = np.sqrt(_inner(total, total))
    x, tangent, shares = start.x1, jnp.asarray(total / norm, start.x1.dtype), []
    for step, at_residual in zip(start.steps, arriving, strict=True):
        tangent_after, share = _push(*step, x, tangent, at_residual)
        x, tangent = step(x), tangent_after
        shares.append(float(share) / norm)
    return np.array(shares)


def _inner(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64)))
