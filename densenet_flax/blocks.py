"""Dense layers, dense blocks and transitions (Huang 2017, section 3).

The batch statistics of a feature map never change once it is made, yet every later layer normalises it anew with its
own scale, bias and running averages. They are computed once, when the map is made, and handed on as `Moments`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from densenet_flax.shared_memory import grow_shared
from layers_flax import BatchNorm, Conv, Dropout, Moments, avg_pool, conv_norm, optimization_barrier


class DenseLayer(nn.Module):
    """H(x): what one layer adds to the features (Huang 2017, section 3).

    BatchNorm, ReLU, 1×1 convolution, BatchNorm, ReLU, 3×3 convolution; without the bottleneck only the latter three.

    Attributes:
        growth_rate: channels that the layer adds, k.
        bottleneck_width: the 1×1 convolution has bottleneck_width · k channels; None is no bottleneck.
        conv, norm, drop: the layers, with types, rate and `axis_name` bound by `functools.partial`; `drop` is behind
            each convolution, in training.
        folded: a BatchNorm behind a convolution is part of it (`weights_flax.fold_batch_norm`).
    """

    growth_rate: int
    bottleneck_width: int | None = 4
    conv: Callable[..., Any] = Conv
    norm: Callable[..., Any] = BatchNorm
    drop: Callable[..., Any] = partial(Dropout, 0.0)
    folded: bool = False

    def setup(self):
        self.norm1 = self.norm()
        if self.bottleneck_width is None:
            self.conv1 = self.conv(self.growth_rate, 3)
        else:
            inner = self.bottleneck_width * self.growth_rate
            self.conv1, self.norm2 = conv_norm(self.conv, self.norm, self.folded, inner, 1)
            self.conv2 = self.conv(self.growth_rate, 3)
        self.dropout = self.drop()

    def __call__(self, x: jax.Array, train: bool = False, moments: Moments | None = None) -> jax.Array:
        """All earlier features (batch, height, width, channels) to the new ones (batch, height, width, k).

        `moments` are the batch statistics of `x`, where they are known.
        """
        y = self.first(x, train, moments)
        return y if self.bottleneck_width is None else self.second(y, train)

    def first(
        self, x: jax.Array, train: bool = False, moments: Moments | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """All earlier features to what the bottleneck gives, or without it to the new ones; `key` is for dropout."""
        return self.dropout(self.conv1(nn.relu(self.norm1(x, train, moments))), train, key)

    def second(
        self, y: jax.Array, train: bool = False, moments: Moments | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """What the bottleneck gives, whose batch statistics may be known, to the new features."""
        return self.dropout(self.conv2(nn.relu(self.norm2(y, train, moments))), train, key)

    def draw_keys(self) -> Sequence[jax.Array | None]:
        """The keys that `first` and `second` would draw for their dropout."""
        return [self.dropout.make_rng("dropout") if self.dropout.rate else None for _ in range(2)]

    def update_running_stats(self, moments: Moments, inner: Sequence[Moments], pixels: int) -> None:
        """Moves the running averages: `moments` are of the features, `inner` of what a bottleneck gives."""
        norms: Sequence[Any] = [self.norm1, *([self.norm2] if inner else [])]
        for norm, its_moments in zip(norms, [moments, *inner], strict=True):
            norm.update_running_stats(its_moments, pixels)


class DenseBlock(nn.Module):
    """Layers each of which sees the features of all earlier ones: x, H_1(x), H_2([x, H_1(x)]), … (equation 2).

    Attributes:
        size: number of layers.
        growth_rate, bottleneck_width, conv, norm, drop, folded: as in `DenseLayer`.
        remat: as in `DenseNet`.
    """

    size: int
    growth_rate: int
    bottleneck_width: int | None = 4
    conv: Callable[..., Any] = Conv
    norm: Callable[..., Any] = BatchNorm
    drop: Callable[..., Any] = partial(Dropout, 0.0)
    folded: bool = False
    remat: bool = False

    def setup(self):
        for i in range(self.size):
            layer = DenseLayer(self.growth_rate, self.bottleneck_width, self.conv, self.norm, self.drop, self.folded)
            setattr(self, f"denselayer{i + 1}", layer)

    @property
    def layers(self) -> list[DenseLayer]:
        """The dense layers; of a bound block."""
        return [getattr(self, f"denselayer{i + 1}") for i in range(self.size)]

    def grow(
        self, x: jax.Array, train: bool = False, moments: Moments | None = None
    ) -> tuple[jax.Array, Moments | None]:
        """The block's output and, in training, its batch statistics; `moments` are those of `x`, where known."""
        if self.folded:
            return self._fill(x), None
        if train and moments is None and self.size > 0:
            moments = self.layers[0].norm1.moments(x)
        if moments is not None and train and self.remat and not self.is_initializing():
            return self._share(x, moments)
        for layer in self.layers:
            new = layer(x, train, moments)
            x = jnp.concatenate([x, new], -1)
            if train:
                x = optimization_barrier(x)
                added = layer.norm1.moments(new)
                moments = jax.tree.map(lambda *both: optimization_barrier(jnp.concatenate(both)), moments, added)
        return x, moments

    def _share(self, x: jax.Array, moments: Moments) -> tuple[jax.Array, Moments]:
        """As `grow`, in training, with little memory: see `densenet_flax.shared_memory`."""
        bound = self.layers
        layers, variables = zip(*[layer.unbind() for layer in bound], strict=True)
        keys = [layer.draw_keys() for layer in bound]

        def half(method: str, variables: Any, keys: Any, x: jax.Array, moments: Moments) -> jax.Array:
            key = keys[method == "second"]
            return layers[0].apply(variables, x, True, moments, key, method=method)

        halves = [partial(half, method) for method in ("first", "second")[: 1 if self.bottleneck_width is None else 2]]
        features, moments, inner = grow_shared(
            halves, bound[0].norm1.moments, self.growth_rate, variables, keys, x, moments
        )
        for i, layer in enumerate(bound):
            end = x.shape[-1] + i * self.growth_rate
            seen = jax.tree.map(lambda values, end=end: values[:end], moments)
            layer.update_running_stats(seen, inner[i : i + 1], x.size // x.shape[-1])
        return features, moments

    def _fill(self, x: jax.Array) -> jax.Array:
        """The block's output, for inference: made once, and each layer writes its features into their place.

        Were they concatenated by each layer anew, copies would grow with the square of the number of layers.
        """
        channels = x.shape[-1]
        shape = (*x.shape[:3], channels + self.size * self.growth_rate)
        features = jnp.zeros(shape, x.dtype, device=jax.typeof(x).sharding)  # spread as x, where a type tells that
        features = lax.dynamic_update_slice_in_dim(features, x, 0, -1, allow_negative_indices=False)
        for layer in self.layers:
            # By `lax.slice`: indexing is a gather where the size of the batch is a symbol.
            new = layer(lax.slice_in_dim(features, 0, channels, axis=-1), False)
            features = lax.dynamic_update_slice_in_dim(features, new, channels, -1, allow_negative_indices=False)
            channels += self.growth_rate
        return features

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, height, width, channels) to (batch, height, width, channels + size · growth_rate)."""
        return self.grow(x, train)[0]


class Transition(nn.Module):
    """Between two blocks: BatchNorm, ReLU, 1×1 convolution and 2×2 average pooling (section 3, "Pooling layers").

    Attributes:
        features: channels out.
        conv, norm, drop, folded: as in `DenseLayer`.
    """

    features: int
    conv: Callable[..., Any] = Conv
    norm: Callable[..., Any] = BatchNorm
    drop: Callable[..., Any] = partial(Dropout, 0.0)
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, moments: Moments | None = None) -> jax.Array:
        """(batch, height, width, channels) to (batch, height // 2, width // 2, features)."""
        x = nn.relu(self.norm(name="norm")(x, train, moments))
        conv = self.conv(self.features, 1, name="conv")
        if self.folded:
            # What a 1×1 convolution makes of means is the mean of what it makes, for a quarter of the work.
            return conv(avg_pool(x, 2))
        return avg_pool(self.drop()(conv(x), train), 2)
