"""A dense block whose memory grows linearly with depth (Pleiss et al., arXiv:1707.06990).

All layers write into one array of features, and each reads its part. The backward pass keeps that array and the output
of each bottleneck; it computes concatenations, BatchNorms and ReLUs again, but no convolution. The gradient of the
features is one array as well, and each layer adds to its part.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from layers_flax import Moments, separate_gradient
from layers_flax.autodiff.backend import backend
from layers_flax.autodiff.linear_map import after, linear_map

Half = Callable[[Any, Any, jax.Array, Moments], jax.Array]
State = tuple[jax.Array, Moments]  # maps, and their batch statistics


def grow_bound(
    layers: Sequence[Any],
    halves: Sequence[Callable[..., jax.Array]],
    x: jax.Array,
    moments: Moments,
    about: Sequence[jax.Array],
) -> tuple[jax.Array, Moments]:
    """A dense block's output in training and its batch statistics, and new running statistics in its layers.

    Args:
        layers: the block's layers, bound.
        halves: the two of a layer, called with the layer, maps, train, their statistics, and a key for dropout;
            without a bottleneck the first is the whole.
        x: (batch, height, width, channels).
        moments: the batch statistics of `x`.
        about: the running mean of each layer's features, see `BatchNorm.moments`.
    """
    unbound, variables = zip(*[layer.unbind() for layer in layers], strict=True)
    keys = [[layer.dropout.make_rng("dropout") if layer.dropout.rate else None for _ in range(2)] for layer in layers]

    def pure(index: int, variables: Any, keys: Any, x: jax.Array, moments: Moments) -> jax.Array:
        return unbound[0].apply(variables, x, True, moments, keys[index], method=halves[index])

    steps = [partial(pure, index) for index in range(1 if unbound[0].bottleneck_width is None else 2)]
    growth_rate = unbound[0].growth_rate
    means = [
        (each, layer.norm2.running_mean if len(steps) > 1 else None) for each, layer in zip(about, layers, strict=True)
    ]
    moments_of = layers[0].norm1.moments
    features, moments, inner = grow_shared(steps, moments_of, growth_rate, variables, keys, x, moments, means)
    pixels = x.size // x.shape[-1]
    for i, layer in enumerate(layers):
        end = x.shape[-1] + i * growth_rate
        layer.norm1.update_running_stats(jax.tree.map(lambda values, end=end: values[:end], moments), pixels)
        if inner:
            layer.norm2.update_running_stats(inner[i], pixels)
    return features, moments


def grow_shared(
    halves: Sequence[Half],
    moments_of: Callable[[jax.Array, jax.Array], Moments],
    growth_rate: int,
    layers: Sequence[Any],
    keys: Sequence[Any],
    x: jax.Array,
    moments: Moments,
    about: Sequence[Any],
) -> tuple[jax.Array, Moments, Sequence[Moments]]:
    """Computes a dense block in training: features, their batch statistics, and those within the layers.

    Args:
        halves: BatchNorm, ReLU and convolution of a layer, as pure functions of its variables, its keys, maps, and the
            statistics of the maps; two with a bottleneck, one without.
        moments_of: the batch statistics of maps, computed about values of each channel.
        growth_rate: channels that a layer adds.
        layers: the variables of each layer.
        keys: for the dropout of each layer.
        x: (batch, height, width, channels).
        moments: the batch statistics of `x`.
        about: for each layer, running means of its features and of its bottleneck.

    Returns:
        (batch, height, width, channels + layers · growth_rate), statistics of these channels, and the
        statistics of each bottleneck's output.
    """

    @jax.custom_jvp
    def grow(layers: Sequence[Any], keys: Sequence[Any], about: Sequence[Any], x: jax.Array, moments: Moments) -> Any:
        state, channels, inner = _padded((x, moments), len(layers) * growth_rate), x.shape[-1], []
        for layer, key, (outside, inside) in zip(layers, keys, about, strict=True):
            new = halves[0](layer, key, *_take(state, 0, channels))
            for half in halves[1:]:
                inner.append((new, moments_of(new, inside)))
                new = half(layer, key, *inner[-1])
            state, channels = _put(state, (new, moments_of(new, outside)), channels), channels + growth_rate
        return *state, inner

    @grow.defjvp
    def tangents_of_grow(primals: Any, tangents: Any) -> Any:
        layers, keys, about, *given = primals
        dlayers, _, _, *dgiven = tangents
        *state, inner = out = grow(*primals)
        dstate, channels, dinner = _padded(tuple(dgiven), len(layers) * growth_rate), given[0].shape[-1], []
        for i, (layer, dlayer, key, its_about) in enumerate(zip(layers, dlayers, keys, about, strict=True)):
            outside, inside = its_about
            dnew, dstate = _tangent(halves[0], (layer, key, tuple(state)), dlayer, dstate, reads=channels)
            for half in halves[1:]:
                dinner.append((dnew, _tangent_of_moments(inner[i][0], dnew, inside)))
                dnew, dstate = _tangent(half, (layer, key, inner[i]), dlayer, dstate, dinner[-1])
            new, _ = _take(tuple(state), channels, channels + growth_rate)
            dnew = separate_gradient(dnew)
            dstate = _put(dstate, (dnew, _tangent_of_moments(new, dnew, outside)), channels)
            channels += growth_rate
        return out, (*dstate, dinner)

    def _tangent_of_moments(x: jax.Array, dx: jax.Array, about: Any) -> Moments:
        return jax.jvp(lambda x: moments_of(x, about), (x,), (dx,))[1]

    features, moments, inner = grow(layers, keys, about, x, moments)
    return features, moments, [its_moments for _, its_moments in inner]


def _tangent(
    half: Half, primals: Any, dlayer: Any, dstate: State, dseen: State | None = None, reads: int | None = None
) -> tuple[jax.Array, State]:
    """The tangent of a half, and the tangent of the block's features and statistics for the following layers.

    The transpose adds to the gradient of features and statistics in place, and computes the half again as soon as the
    layers behind have delivered that gradient. Each layer passes the gradient on as an array: XLA would recompute a sum
    of all layers' gradients in each consumer and keep all its terms.

    Args:
        half: as in `grow_shared`.
        primals: a layer's variables, its keys, and maps with their statistics: the input of the half, or the state.
        dlayer: the tangent of the variables.
        dstate: the tangent of the block's features and their statistics.
        dseen: the tangent of the half's input; None where the half reads the state.
        reads: number of leading channels read.
    """

    def see(state: State) -> State:
        return state if reads is None else _take(state, 0, reads)

    def at(key: Any) -> Callable[..., jax.Array]:
        return lambda layer, seen: half(layer, key, *seen)

    def forward(primals: Any, tangents: Any) -> Any:
        (layer, key, maps), (dlayer, dstate, *dseen) = primals, tangents
        along = dseen[0] if dseen else see(dstate)
        return jax.jvp(at(key), (layer, see(maps)), (dlayer, along))[1], dstate

    def backward(primals: Any, cotangents: Any) -> Any:
        (layer, key, maps), (cotangent, gradient) = primals, cotangents
        # The small moments are not computed again, and need not wait. On accelerators the whole array waits: XLA would
        # keep every slice that it cuts out before. On the CPU `after` computes, and only on what is read.
        if backend() == "cpu":
            x, moments = see(maps)
            x = after(x, gradient[0])
        else:
            x, moments = see((after(maps[0], gradient[0]), maps[1]))
        dlayer, dseen = jax.vjp(at(key), layer, (x, moments))[1](cotangent)
        if reads is None:
            return dlayer, gradient, dseen
        return dlayer, _put(gradient, jax.tree.map(jnp.add, see(gradient), dseen), 0)

    return linear_map(forward, backward, primals, (dlayer, dstate, *([] if dseen is None else [dseen])))


def _padded(state: State, channels: int) -> State:
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, channels),)), state)


def _take(state: State, begin: int, end: int) -> State:
    return jax.tree.map(lambda x: lax.slice_in_dim(x, begin, end, axis=-1), state)


def _put(state: State, new: State, begin: int) -> State:
    def put(x: jax.Array, new: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(x, new, begin, -1, allow_negative_indices=False)

    return jax.tree.map(put, state, new)
