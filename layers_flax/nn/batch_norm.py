"""Batch normalisation (Ioffe and Szegedy, arXiv:1502.03167) as a pure function of explicit state."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from common_flax.checks import one_of
from layers_flax.autodiff.backend import backend
from layers_flax.nn.means import mean_by_dot
from layers_flax.parameters.initializers import filled_on_host, ones, zeros
from layers_flax.parameters.parameter import parameter, read

RUNNING_VARIANCES = ("biased", "unbiased")


class Moments(NamedTuple):
    """Statistics of one batch of feature maps, channel by channel, in float32 or wider."""

    mean: jax.Array  # (channels,)
    variance: jax.Array  # (channels,), biased: divided by the number of values


# Under `jit` JAX traces this once for all layers of a shape; `inline` leaves no call, so that the compiled program is
# the same as without.
@partial(jax.jit, static_argnames="axis_name", inline=True)
def batch_moments(x: jax.Array, axis_name: str | None = None, about: jax.Array | None = None) -> Moments:
    """Mean and biased variance over all axes but the last, in one pass over `x`.

    A value c of each channel is subtracted before squaring: E[(x - c)²] - E[x - c]² rounds by about
    ε (1 + (mean - c)² / variance) of the variance, and E[x²] - E[x]² by ε (1 + mean² / variance).

    Args:
        x: (..., channels), any float type; the statistics are float32 or wider.
        axis_name: a mapped axis (`pmap`, `vmap`, `shard_map`) whose members form one batch together.
        about: (channels,), the values c; None takes the first value of each channel in `x`, which is a few deviations
            from the mean at most. Values known before `x` let XLA compute the sums where it computes `x`; they get no
            gradient.
    """
    return _batch_moments(x, about, axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _batch_moments(x: jax.Array, about: jax.Array | None, axis_name: str | None) -> Moments:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    shift = _first(x) if about is None else about.astype(x.dtype)
    mean, square = _mean(x - shift), _mean(jnp.square(x - shift))
    if axis_name is not None and about is not None:  # all members subtract the same, and need one collective
        mean, square = lax.pmean(jnp.stack([mean, square]), axis_name)
    variance = jnp.maximum(square - jnp.square(mean), 0.0)
    mean = mean + shift
    if axis_name is None or about is not None:
        return Moments(mean, variance)
    # The sum of each member's variance and of the variance of the members' means subtracts no large numbers.
    global_mean = lax.pmean(mean, axis_name)
    return Moments(global_mean, lax.pmean(variance + jnp.square(mean - global_mean), axis_name))


def _first(x: jax.Array) -> jax.Array:
    """(..., channels) to (channels,): the values at the first place of all axes.

    JAX cannot cut a single place out of an axis that the type spreads over devices (a mesh with explicit axes); a sum
    in which all other places count as zero is the same number.
    """
    spread = [name is not None for name in jax.typeof(x).sharding.spec[:-1]]
    x = x[tuple(slice(None) if axis else 0 for axis in spread)]
    for _ in range(sum(spread)):
        place = lax.broadcasted_iota(jnp.int32, (x.shape[0], *[1] * (x.ndim - 1)), 0)
        x = x.sum(0, where=place == 0)
    return x


def _mean(x: jax.Array) -> jax.Array:
    """The mean over all axes but the last."""
    if x.size < 4096:  # XLA's CPU backend would fuse so short a sum with other operations
        return mean_by_dot(x.reshape(-1, x.shape[-1])[None])[0]
    return x.mean(tuple(range(x.ndim - 1)))


@_batch_moments.defjvp
def _batch_moments_jvp(axis_name, primals, tangents):
    """d mean = E[dx], d variance = 2 (E[x dx] - mean E[dx]).

    It is written out, because the derivative of the one pass would keep x - c beside x for the backward pass.
    """
    (x, about), (dx, _) = primals, tangents
    moments = batch_moments(x, axis_name, about)
    x, dx = x.astype(moments.mean.dtype), dx.astype(moments.mean.dtype)
    axes = tuple(range(x.ndim - 1))
    mean, product = dx.mean(axes), (x * dx).mean(axes)
    if axis_name is not None:
        mean, product = lax.pmean(jnp.stack([mean, product]), axis_name)
    return moments, Moments(mean, 2 * (product - moments.mean * mean))


@partial(jax.jit, static_argnums=(4, 5), inline=True)
def normalised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, moments: Moments, epsilon: float, out: jnp.dtype
) -> jax.Array:
    """x · a + b: the backward pass then keeps x alone, without x - mean beside it."""
    factor = lax.rsqrt(moments.variance + epsilon) * scale
    return (x * factor + (bias - moments.mean * factor)).astype(out)


@partial(jax.jit, static_argnums=2, inline=True)
def _moved(running: jax.Array, batch: jax.Array, momentum: float) -> jax.Array:
    """Running averages, a step further towards a batch's."""
    return (momentum * running + (1 - momentum) * lax.stop_gradient(batch)).astype(running.dtype)


class BatchNorm(nn.Module):
    """y = (x - mean) / sqrt(variance + epsilon) · scale + bias, channel by channel.

    Parameters `scale`, `bias`; running averages `mean`, `var` in the collection `batch_stats`. In training the
    statistics are the batch's, and where `batch_stats` is mutable the running averages move towards them:
    running ← momentum · running + (1 - momentum) · batch. Momentum .9 here is .1 in PyTorch.

    Attributes:
        momentum: share of the running averages that stays.
        epsilon: added to the variance.
        axis_name: a mapped axis whose members form one batch together.
        running_variance: "biased" (variance divided by n, as Flax) or "unbiased" (n - 1, as PyTorch keeps it);
            the batch itself is normalised by the biased one either way.
        frozen: normalise with the running averages in training too, and leave them as they are (fine-tuning).
        dtype: type of the output; None is the promotion of input and parameters.
        param_dtype: type of scale and bias; statistics are float32 or wider.
        scale_init: initialiser of the scale.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    running_variance: str = "biased"
    frozen: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scale_init: nn.initializers.Initializer = ones

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, moments: Moments | None = None, values: int | None = None
    ) -> jax.Array:
        """Normalises `x`, (..., channels), keeping its shape.

        Args:
            x: feature maps.
            train: normalise with the batch's statistics; otherwise with the running averages.
            moments: the batch's statistics, if they have been computed (a DenseNet's features keep theirs).
            values: the number of values of a channel that `moments` are of; None is that of `x`.
        """
        one_of("running_variance", self.running_variance, RUNNING_VARIANCES)
        channels = (x.shape[-1],)
        wide = jnp.promote_types(self.param_dtype, jnp.float32)
        scale = parameter(self, "scale", self.scale_init, channels, self.param_dtype)
        bias = parameter(self, "bias", zeros, channels, self.param_dtype)
        # No key tells if this is traced, for shapes alone or for a program; the scale does.
        initial = jnp.full if isinstance(scale, jax.core.Tracer) else filled_on_host
        running_mean = self.variable("batch_stats", "mean", initial, channels, 0, wide)
        running_var = self.variable("batch_stats", "var", initial, channels, 1, wide)

        if not train or self.frozen:
            moments = Moments(running_mean.value, running_var.value)
        else:
            moments = self.moments(x) if moments is None else moments
            self.update_running_stats(moments, values or x.size // x.shape[-1])

        out = jnp.result_type(x, scale, bias) if self.dtype is None else self.dtype
        scale, bias, mean, variance = read(self, x, scale, bias, *moments)
        return normalised(x, scale, bias, Moments(mean, variance), self.epsilon, jnp.dtype(out))

    @nn.nowrap
    def moments(self, x: jax.Array, about: jax.Array | None = None) -> Moments:
        """The batch statistics that this layer normalises `x` with in training.

        On accelerators they are computed about the running mean, as part of the convolution that makes `x`; about a
        value of `x` itself, as on the CPU, they would need a pass of their own, and a map in float32.

        Args:
            x: feature maps (..., channels).
            about: (channels,), the running mean of another layer that reads `x`; None is this layer's.
        """
        about = self.running_mean if about is None else about
        # During `init` no axis is mapped.
        axis_name = None if self.is_initializing() else self.axis_name
        return batch_moments(x, axis_name, None if backend() == "cpu" else about)

    @property
    def running_mean(self) -> jax.Array | None:
        """(channels,) of a layer with variables; None before `init` has made them."""
        return self.get_variable("batch_stats", "mean") if self.has_variable("batch_stats", "mean") else None

    def update_running_stats(self, moments: Moments, values: int) -> None:
        """Moves the running averages, where they are mutable, towards a batch's statistics.

        Args:
            moments: the statistics.
            values: number of values of a channel, on this member of `axis_name`.
        """
        if self.frozen or self.is_initializing() or not self.is_mutable_collection("batch_stats"):
            return
        self._update("mean", moments.mean)
        self._update("var", moments.variance * self._bessel(values))

    def _update(self, name: str, batch: jax.Array) -> None:
        running: Any = self.get_variable("batch_stats", name)
        self.put_variable("batch_stats", name, _moved(running, batch, self.momentum))

    def _bessel(self, size: int) -> float:
        """n / (n - 1) over all values of a channel, or 1 for the biased running variance."""
        if self.running_variance == "biased":
            return 1.0
        if self.axis_name is not None:
            size *= lax.axis_size(self.axis_name)
        if size < 2:
            raise ValueError("running_variance='unbiased' needs at least 2 values a channel; given 1")
        return size / (size - 1)
