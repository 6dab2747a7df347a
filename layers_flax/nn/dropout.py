"""Noise in training: dropped values (Srivastava et al., JMLR 2014), and dropped branches of residual blocks."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from common_flax.checks import check_rate


class Dropout(nn.Module):
    """Dropout: in training each value is zero with probability `rate`, and the others are divided by 1 - rate.

    The mask comes from the "dropout" key of `model.apply(…, train=True, rngs={"dropout": key})`. Where the batch is
    spread over a mapped axis, each member cuts its part out of the whole batch's mask, so that the same key drops the
    same values on any number of devices.

    Attributes:
        rate: from 0 up to, but not, 1.
        axis_name: a mapped axis whose members form one batch together.

    Raises:
        ValueError: the rate is not in [0, 1).
    """

    rate: float
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """(batch, …) to the same shape and type; with `key`, none is asked for."""
        return self._drop(x, x.shape[1:], train, key)

    @nn.nowrap
    def _drop(self, x: jax.Array, shape: tuple[int, ...], train: bool, key: jax.Array | None = None) -> jax.Array:
        """Drops values by a mask of (batch, *shape), which is broadcast."""
        if not train or self.rate == 0:
            return x
        key, batch = self.make_rng("dropout") if key is None else key, x.shape[0]
        if self.axis_name is None or self.is_initializing():
            keep = jax.random.bernoulli(key, 1 - self.rate, (batch, *shape))
        else:
            whole = jax.random.bernoulli(key, 1 - self.rate, (batch * lax.axis_size(self.axis_name), *shape))
            keep = lax.dynamic_slice_in_dim(whole, batch * lax.axis_index(self.axis_name), batch)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype))


class DropPath(Dropout):
    """Stochastic depth (Huang et al., arXiv:1603.09382): in training, an example's whole branch is zero.

    Attributes and key as in `Dropout`; kept branches are divided by 1 - rate, so that evaluation needs no factor.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """(batch, …) to the same shape and type; with `key`, none is asked for."""
        return self._drop(x, (1,) * (x.ndim - 1), train, key)
