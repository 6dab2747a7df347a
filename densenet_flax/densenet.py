"""DenseNet (Huang 2017): dense blocks, transitions, and the network of stem, stages and head.

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

from common_flax.checks import check_images, check_positive, check_rate, one_of
from densenet_flax.shared_memory import grow_shared
from layers_flax import (
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    Moments,
    Network,
    ScaleShift,
    avg_pool,
    check_inference,
    conv_norm,
    folded_logits,
    forward_conv2d,
    global_avg_pool,
    he_normal_fan_in,
    max_pool,
    once,
    torch_linear,
)

STEMS = ("imagenet", "cifar")


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

    def track(self, moments: Moments, inner: Sequence[Moments], pixels: int) -> None:
        """Moves the running averages: `moments` are of the features, `inner` of what a bottleneck gives."""
        norms: Sequence[Any] = [self.norm1, *([self.norm2] if inner else [])]
        for norm, its_moments in zip(norms, [moments, *inner], strict=True):
            norm.track(its_moments, pixels)


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
                x = once(x)
                moments = jax.tree.map(
                    lambda old, added: once(jnp.concatenate([old, added])), moments, layer.norm1.moments(new)
                )
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
            layer.track(seen, inner[i : i + 1], x.size // x.shape[-1])
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


class DenseNet(Network):
    """A densely connected network: stem, stages, head. Stage i is transition i, where i > 0, and dense block i + 1.

    `init` returns exactly {"params", "batch_stats"}. The parts can be called one by one with the same variables:
    `model.apply(variables, images, method="stem")`, `(…, x, 0, method="stage")`, `(…, x, method="head")`; and on
    `model.bind(variables)` each of `blocks[i].layers[j]` and `transitions[i]`. Dropout takes the "dropout" key of
    `model.apply(…, train=True, rngs={"dropout": key})`.

    Attributes:
        block_sizes: layers in each dense block.
        growth_rate: channels that each layer adds, k.
        num_classes: width of the logits.
        stem_kind: "imagenet", a 7×7 convolution of stride 2, BatchNorm, ReLU and a 3×3 max pool of stride 2;
            "cifar", a 3×3 convolution alone. (The constructors' keyword `stem`.)
        stem_width: channels of the stem; None is 2 · growth_rate.
        bottleneck_width: each layer's 1×1 convolution has bottleneck_width · k channels; None is no bottleneck.
        compression: the share of channels that a transition keeps, θ.
        dropout: rate behind each convolution but the stem's, in training.
        remat: keep features and what bottlenecks give for the backward pass of training, and compute BatchNorms and
            ReLUs again there: memory grows linearly with depth, not with its square (Pleiss 2017).
        frozen_batch_norm: running statistics normalise in training too, and stay as they are.
        running_variance: "biased" or "unbiased", see `BatchNorm`.
        dtype: the compute type; None is the promotion of images and parameters. Logits are at least float32.
        param_dtype: type of the parameters; BatchNorm's statistics are float32 or wider.
        axis_name: a mapped axis over which batch statistics are taken.
        folded: for inference alone, as `weights_flax.fold_batch_norm` makes it: a BatchNorm behind a convolution is
            part of it, any other is a scale and a shift.

    Raises:
        ValueError: an option's value is not allowed, or images are not of rank 4 or too small for the transitions.
    """

    block_sizes: Sequence[int]
    growth_rate: int = 32
    num_classes: int = 1000
    stem_kind: str = "imagenet"
    stem_width: int | None = None
    bottleneck_width: int | None = 4
    compression: float = 0.5
    dropout: float = 0.0
    remat: bool = False
    frozen_batch_norm: bool = False
    running_variance: str = "biased"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    folded: bool = False

    def __post_init__(self):
        one_of("stem", self.stem_kind, STEMS)
        for name in ("growth_rate", "num_classes"):
            check_positive(name, getattr(self, name))
        if self.bottleneck_width is not None:
            check_positive("bottleneck_width", self.bottleneck_width)
        if not 0 < self.compression <= 1:
            raise ValueError(f"compression must be over 0 and at most 1; given {self.compression!r}")
        check_rate("dropout", self.dropout)
        super().__post_init__()

    def setup(self):
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        convolve = forward_conv2d if self.folded else None
        conv: Callable[..., Conv] = partial(Conv, kernel_init=he_normal_fan_in, convolve=convolve, **types)
        norm: Callable[..., nn.Module] = partial(ScaleShift, **types)
        if not self.folded:
            norm = partial(
                BatchNorm,
                running_variance=self.running_variance,
                frozen=self.frozen_batch_norm,
                axis_name=self.axis_name,
                **types,
            )
        layers: dict[str, Any] = dict(conv=conv, norm=norm, drop=partial(Dropout, self.dropout, self.axis_name))
        layers |= dict(folded=self.folded)
        features = self.stem_width or 2 * self.growth_rate
        if self.stem_kind == "imagenet":
            self.conv0, self.norm0 = conv_norm(conv, norm, self.folded, features, 7, 2)
        else:
            self.conv0 = conv(features, 3)
        for i, size in enumerate(self.block_sizes):
            if i > 0:
                features = int(features * self.compression)
                setattr(self, f"transition{i}", Transition(features, **layers))
            block = DenseBlock(size, self.growth_rate, self.bottleneck_width, remat=self.remat, **layers)
            setattr(self, f"denseblock{i + 1}", block)
            features += size * self.growth_rate
        self.norm5 = norm()
        self.classifier = Linear(self.num_classes, self.param_dtype, torch_linear)

    @property
    def blocks(self) -> list[DenseBlock]:
        """The dense blocks; of a bound model."""
        return [getattr(self, f"denseblock{i + 1}") for i in range(len(self.block_sizes))]

    @property
    def transitions(self) -> list[Transition]:
        """The transitions between the blocks; of a bound model."""
        return [getattr(self, f"transition{i}") for i in range(1, len(self.block_sizes))]

    def stem(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images (batch, height, width, channels) to what the first block takes."""
        check_images(images.shape)
        check_inference(self.folded, train)
        x = self.conv0(images)
        return max_pool(nn.relu(self.norm0(x, train)), 3, 2, padding=1) if self.stem_kind == "imagenet" else x

    def stage(self, x: jax.Array, index: int, train: bool = False) -> jax.Array:
        """The output of stage `index`, counted from 0, for its input."""
        return self._grow(x, index, train)[0]

    def head(self, x: jax.Array, train: bool = False, moments: Moments | None = None) -> jax.Array:
        """The last stage's output to logits (batch, num_classes), float32 or wider."""
        check_inference(self.folded, train)
        return self.classify(self.pool(self.last_map(x, train, moments)))

    def last_map(self, x: jax.Array, train: bool = False, moments: Moments | None = None) -> jax.Array:
        """The last stage's output as it is pooled: normalised and activated."""
        return nn.relu(self.norm5(x, train, moments))

    def pool(self, x: jax.Array) -> jax.Array:
        """The last map to what is classified, its mean over all pixels: (batch, channels), float32 or wider."""
        return global_avg_pool(x, fused=self.folded)

    def classify(self, x: jax.Array) -> jax.Array:
        """(batch, channels) to logits."""
        return self.classifier(x)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images (batch, height, width, channels) to logits (batch, num_classes), float32 or wider.

        With `train`, BatchNorm takes the batch's statistics, and updates the running ones if they are mutable.
        """
        if self.folded and not train:
            return folded_logits(self, images)
        return self.at_once(images, train)

    def at_once(self, images: jax.Array, train: bool = False) -> jax.Array:
        """As a call, but never in pieces, as folded networks run (`layers_flax.folded_logits`)."""
        x, moments = self.stem(images, train), None
        for index in range(len(self.block_sizes)):
            x, moments = self._grow(x, index, train, moments)
        return self.head(x, train, moments)

    def _grow(
        self, x: jax.Array, index: int, train: bool, moments: Moments | None = None
    ) -> tuple[jax.Array, Moments | None]:
        check_inference(self.folded, train)
        if index > 0:
            x, moments = self.transitions[index - 1](x, train, moments), None
        return self.blocks[index].grow(x, train, moments)
