"""A dense block whose memory grows linearly with depth (Pleiss et al., arXiv:1707.06990).

All layers write into one array of features, and each reads its part of it. For the backward pass are kept that array
and what each bottleneck gives: concatenations, BatchNorms and ReLUs are computed again, but no convolution. The
gradient of the features is one array as well, to whose part each layer adds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from layers_flax import Moments
from layers_flax.linear_map import after, linear_map

Half = Callable[[Any, jax.Array, jax.Array, Moments], jax.Array]


def grow_shared(
    halves: Sequence[Half],
    moments_of: Callable[[jax.Array], Moments],
    growth_rate: int,
    layers: Sequence[Any],
    keys: Sequence[Any],
    x: jax.Array,
    moments: Moments,
) -> tuple[jax.Array, Moments, Sequence[Moments]]:
    """What a dense block gives, in training: features, their batch statistics, and those within the layers.

    Args:
        halves: BatchNorm, ReLU and convolution of a layer, as pure functions of its variables, its keys, maps, and the
            statistics of the maps; with a bottleneck two, without it one.
        moments_of: the batch statistics of maps.
        growth_rate: channels that a layer adds.
        layers: the variables of each layer.
        keys: of each layer, for its dropout.
        x: (batch, height, width, channels).
        moments: the batch statistics of `x`.

    Returns:
        (batch, height, width, channels + layers · growth_rate), statistics of these channels, and for each layer
        those of what its bottleneck gives, if it has one.
    """

    @jax.custom_jvp
    def grow(layers: Sequence[Any], keys: Sequence[Any], x: jax.Array, moments: Moments) -> Any:
        features, channels, inner = _with_room(x, len(layers) * growth_rate), x.shape[-1], []
        for layer, key in zip(layers, keys, strict=True):
            new = halves[0](layer, key, _take(features, channels), moments)
            for half in halves[1:]:
                inner.append((new, moments_of(new)))
                new = half(layer, key, *inner[-1])
            features, channels = _put(features, new, channels), channels + growth_rate
            moments = _join(moments, moments_of(new))
        return features, moments, inner

    @grow.defjvp
    def tangents_of_grow(primals: Any, tangents: Any) -> Any:
        layers, keys, x, moments = primals
        dlayers, _, dx, dmoments = tangents
        out = features, all_moments, inner = grow(layers, keys, x, moments)
        dfeatures, channels, dinner = _with_room(dx, len(layers) * growth_rate), x.shape[-1], []
        for i, (layer, dlayer, key) in enumerate(zip(layers, dlayers, keys, strict=True)):
            seen = jax.tree.map(lambda values, end=channels: values[:end], all_moments)
            points, along = (layer, key, features, seen), (dlayer, dmoments)
            dnew, dfeatures = _tangent(halves[0], points, along, dfeatures, reads=channels)
            for half in halves[1:]:
                y, its_moments = inner[i]
                dinner.append((dnew, jax.jvp(moments_of, (y,), (dnew,))[1]))
                dnew, dfeatures = _tangent(half, (layer, key, y, its_moments), (dlayer, dinner[-1][1]), dfeatures, dnew)
            new = lax.slice_in_dim(features, channels, channels + growth_rate, axis=-1)
            dmoments = _join(dmoments, jax.jvp(moments_of, (new,), (dnew,))[1])
            dfeatures, channels = _put(dfeatures, dnew, channels), channels + growth_rate
        return out, (dfeatures, dmoments, dinner)

    features, moments, inner = grow(layers, keys, x, moments)
    return features, moments, [its_moments for _, its_moments in inner]


def _tangent(
    half: Half, primals: Any, tangents: Any, dfeatures: jax.Array, dx: jax.Array | None = None, reads: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """The tangent of a half, and that of the features for what follows.

    Its transpose adds to the gradient of the features in place, and computes the half again once that has come from
    the layers behind.

    Args:
        half: as in `grow_shared`.
        primals: a layer's variables, its keys, maps, and statistics of those that the half sees.
        tangents: of the variables and the statistics.
        dfeatures: the tangent of the block's features.
        dx: the tangent of the maps; None where they are the features.
        reads: the half sees so many of the features' channels; None where it sees others.
    """

    def see(maps: jax.Array) -> jax.Array:
        return maps if reads is None else _take(maps, reads)

    def at(key: Any) -> Callable[..., jax.Array]:
        return lambda layer, moments, x: half(layer, key, x, moments)

    def forward(primals: Any, tangents: Any) -> Any:
        (layer, key, maps, moments), (along, dfeatures, *dx) = primals, tangents
        dx = dx[0] if dx else see(dfeatures)
        return jax.jvp(at(key), (layer, moments, see(maps)), (*along, dx))[1], dfeatures

    def backward(primals: Any, cotangents: Any) -> Any:
        (layer, key, maps, moments), (cotangent, gradient) = primals, cotangents
        # What is small is not computed again, and waits for nothing: XLA repeats it in each operation that reads it.
        *along, dx = jax.vjp(at(key), layer, moments, after(see(maps), gradient))[1](cotangent)
        if reads is None:
            return tuple(along), gradient, dx
        return tuple(along), _put(gradient, see(gradient) + dx, 0)

    return linear_map(forward, backward, primals, (tangents, dfeatures, *([] if dx is None else [dx])))


def _with_room(x: jax.Array, channels: int) -> jax.Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, channels),))


def _take(features: jax.Array, channels: int) -> jax.Array:
    return lax.slice_in_dim(features, 0, channels, axis=-1)


def _put(features: jax.Array, new: jax.Array, channels: int) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(features, new, channels, -1, allow_negative_indices=False)


def _join(*moments: Moments) -> Moments:
    return jax.tree.map(lambda *values: jnp.concatenate(values), *moments)
