"""Dense layers, dense blocks and transitions (Huang 2017, section 3).

Every later layer normalises a feature map anew with its own scale, bias and running averages, but the map's batch
statistics stay the same. They are computed once, when the map is computed, and passed on as `Moments`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from densenet_flax.shared_memory import grow_bound
from layers_flax import (
    BatchNorm,
    Conv,
    Dropout,
    Moments,
    avg_pool,
    conv_norm,
    norm_relu_conv,
    optimization_barrier,
    separate_gradient,
)


class Layered(nn.Module, kw_only=True):
    """The base of all three, with the layers they consist of.

    Attributes:
        conv, norm, drop: the layers, with types, probability and `axis_name` bound by `functools.partial`; `drop` is
            behind each convolution, in training.
        folded: a BatchNorm behind a convolution is part of it (`weights_flax.fold_batch_norm`).
    """

    conv: Callable[..., Any] = Conv
    norm: Callable[..., Any] = BatchNorm
    drop: Callable[..., Any] = partial(Dropout, 0.0)
    folded: bool = False


class DenseLayer(Layered):
    """H(x): the features that one layer adds (Huang 2017, section 3).

    BatchNorm, ReLU, 1×1 convolution, BatchNorm, ReLU, 3×3 convolution; without the bottleneck only the latter three.

    Attributes:
        growth_rate: channels that the layer adds, k.
        bottleneck_width: the 1×1 convolution has bottleneck_width · k channels; None is no bottleneck.
    """

    growth_rate: int
    bottleneck_width: int | None = 4

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

        `moments` are the batch statistics of `x`, where the caller has them.
        """
        y = first_half(self, x, train, moments)
        return y if self.bottleneck_width is None else second_half(self, y, train)


def first_half(
    layer: Any, x: jax.Array, train: bool, moments: Moments | None = None, key: jax.Array | None = None
) -> jax.Array:
    """All earlier features to the bottleneck, or without one to the new features; `key` is for dropout."""
    return layer.dropout(norm_relu_conv(layer.norm1, layer.conv1, x, train, moments), train, key)


def second_half(
    layer: Any, y: jax.Array, train: bool, moments: Moments | None = None, key: jax.Array | None = None
) -> jax.Array:
    """The bottleneck to the new features."""
    return layer.dropout(layer.conv2(nn.relu(layer.norm2(y, train, moments))), train, key)


class DenseBlock(Layered):
    """Layers each of which sees the features of all earlier ones: x, H_1(x), H_2([x, H_1(x)]), … (equation 2).

    Attributes:
        size: number of layers.
        growth_rate, bottleneck_width, remat: as in `DenseNet`.
    """

    size: int
    growth_rate: int
    bottleneck_width: int | None = 4
    remat: bool = False

    def setup(self):
        made: dict[str, Any] = dict(conv=self.conv, norm=self.norm, drop=self.drop, folded=self.folded)
        for i in range(self.size):
            setattr(self, f"denselayer{i + 1}", DenseLayer(self.growth_rate, self.bottleneck_width, **made))

    @property
    def layers(self) -> list[DenseLayer]:
        """The dense layers; of a bound block."""
        return [getattr(self, f"denselayer{i + 1}") for i in range(self.size)]

    def grow(
        self, x: jax.Array, train: bool = False, mean: jax.Array | None = None
    ) -> tuple[jax.Array, Moments | None]:
        """The output and, in training, its batch statistics; `mean` is the running mean of the norm that reads it."""
        if self.folded:
            return fill(self, x), None
        if train and self.size:
            return grow_in_training(self, x, mean)
        for layer in self.layers:
            x = jnp.concatenate([x, layer(x, train)], -1)
        return x, None

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, height, width, channels) to (batch, height, width, channels + size · growth_rate)."""
        return self.grow(x, train)[0]


def grow_in_training(block: DenseBlock, x: jax.Array, mean: jax.Array | None) -> tuple[jax.Array, Moments]:
    """The block's output and its batch statistics in training.

    `mean` is the running mean of the norm that reads the output, see `BatchNorm.moments`.
    """
    moments = block.layers[0].norm1.moments(x)
    about = running_means(block, x.shape[-1], mean)
    if block.remat and not block.is_initializing():
        return grow_bound(block.layers, (first_half, second_half), x, moments, about)
    for layer, its_about in zip(block.layers, about, strict=True):
        new = layer(x, True, moments)
        x = optimization_barrier(jnp.concatenate([x, separate_gradient(new)], -1))
        moments = side_by_side(moments, layer.norm1.moments(new, its_about))
    return x, moments


def running_means(block: DenseBlock, channels: int, behind: jax.Array | None) -> list[jax.Array]:
    """The running mean of each layer's features, (k,), as the next norm has it; zero where none is known.

    `channels` is the number in front of the block, `behind` the running mean of the norm behind it.
    """
    means = [*(layer.norm1.running_mean for layer in block.layers[1:]), behind]
    starts = range(channels, channels + block.size * block.growth_rate, block.growth_rate)
    return [
        jnp.zeros(block.growth_rate) if mean is None else lax.slice_in_dim(mean, start, start + block.growth_rate)
        for mean, start in zip(means, starts, strict=True)
    ]


def side_by_side(first: Moments, second: Moments) -> Moments:
    """The statistics of maps whose channels are concatenated."""
    return jax.tree.map(lambda *both: optimization_barrier(jnp.concatenate(both)), first, second)


def fill(block: DenseBlock, x: jax.Array) -> jax.Array:
    """The block's output, for inference: one array, into which each layer writes its features.

    Concatenation by each layer would copy a number of features that grows with the square of the number of layers.
    """
    channels = x.shape[-1]
    shape = (*x.shape[:3], channels + block.size * block.growth_rate)
    features = jnp.zeros(shape, x.dtype, device=jax.typeof(x).sharding)  # spread over devices as x, if its type says so
    features = lax.dynamic_update_slice_in_dim(features, x, 0, -1, allow_negative_indices=False)
    for layer in block.layers:
        # `lax.slice`, because indexing becomes a gather where the size of the batch is a symbol.
        new = layer(lax.slice_in_dim(features, 0, channels, axis=-1), False)
        features = lax.dynamic_update_slice_in_dim(features, new, channels, -1, allow_negative_indices=False)
        channels += block.growth_rate
    return features


class Transition(Layered):
    """Between two blocks: BatchNorm, ReLU, 1×1 convolution and 2×2 average pooling (section 3, "Pooling layers").

    Attributes:
        features: channels out.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, moments: Moments | None = None) -> jax.Array:
        """(batch, height, width, channels) to (batch, height // 2, width // 2, features)."""
        norm, conv = self.norm(name="norm"), self.conv(self.features, 1, name="conv")
        if self.folded:
            x = nn.relu(norm(x, train, moments))
            # A 1×1 convolution of means is the mean of the convolution, for a quarter of the work.
            return conv(avg_pool(x, 2))
        return avg_pool(self.drop()(norm_relu_conv(norm, conv, x, train, moments), train), 2)
