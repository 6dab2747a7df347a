"""DenseNet (Huang 2017): the network of stem, stages and head."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common_flax.checks import check_images, check_positive, check_rate, one_of
from densenet_flax.blocks import DenseBlock, Transition
from densenet_flax.torch_weights import module_name, present_name
from layers_flax import (
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    Moments,
    Network,
    ScaleShift,
    check_inference,
    conv_norm,
    folded_logits,
    global_avg_pool,
    he_normal_fan_in,
    inference_conv2d,
    max_pool,
    torch_linear,
)

STEMS = ("imagenet", "cifar")


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

    first_conv, torch_head = "conv0", "classifier"
    torch_module, torch_spelling = staticmethod(module_name), staticmethod(present_name)

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
        convolve = inference_conv2d if self.folded else None
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
    def stage_sizes(self) -> Sequence[int]:
        """Layers of each stage: `block_sizes`."""
        return self.block_sizes

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
        """As a call, but never in chunks, as folded networks run (`layers_flax.folded_logits`)."""
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
