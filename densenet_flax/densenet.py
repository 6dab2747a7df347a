"""DenseNet (Huang 2017): the network of stem, stages and head."""

from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import Any, ClassVar

import jax
from flax import linen as nn

from common_flax.checks import check_images, check_positive, check_rate, check_sizes, one_of
from densenet_flax.blocks import DenseBlock, DenseLayer, Transition
from densenet_flax.torch_weights import densenet_options, module_name, present_name
from layers_flax import (
    Dropout,
    Linear,
    Moments,
    Network,
    NetworkOptions,
    check_inference,
    conv_norm,
    he_normal_fan_in,
    norm_relu_max_pool,
    torch_linear,
)

STEMS = ("imagenet", "cifar")


class DenseNetOptions(NetworkOptions, total=False):
    """Keywords of the constructors; `DenseNet` explains them."""

    block_sizes: Sequence[int]
    growth_rate: int
    stem_type: str
    stem_width: int | None
    bottleneck_width: int | None
    compression: float
    dropout: float
    remat: bool


class DenseNet(Network):
    """A densely connected network: stem, stages, head. Stage i is transition i, where i > 0, and dense block i + 1.

    The parts can be called one by one with the same variables, as those of any `layers_flax.Network`; and on
    `model.bind(variables)` each of `blocks[i].layers[j]` and `transitions[i]`. Dropout takes the "dropout" key of
    `model.apply(…, train=True, rngs={"dropout": key})`.

    Attributes:
        block_sizes: layers in each dense block.
        growth_rate: channels that each layer adds, k.
        num_classes: width of the logits.
        stem_type: "imagenet", a 7×7 convolution of stride 2, BatchNorm, ReLU and a 3×3 max pool of stride 2;
            "cifar", a 3×3 convolution alone.
        stem_width: channels of the stem; None is 2 · growth_rate.
        bottleneck_width: each layer's 1×1 convolution has bottleneck_width · k channels; None is no bottleneck.
        compression: the share of channels that a transition keeps, θ.
        dropout: probability of dropping a value behind each convolution but the stem's, in training.
        remat: keep the features and the outputs of bottlenecks for the backward pass of training, and compute
            BatchNorms and ReLUs again there: memory grows linearly with depth, not with its square (Pleiss 2017).
        frozen_batch_norm, running_variance, dtype, param_dtype, axis_name, folded: as in
            `layers_flax.Network`.

    Raises:
        ValueError: an option's value is not allowed, or images are not (batch, height, width, channels), or too small
            for the transitions.
    """

    block_sizes: Sequence[int]
    growth_rate: int = 32
    num_classes: int = 1000
    stem_type: str = "imagenet"
    stem_width: int | None = None
    bottleneck_width: int | None = 4
    compression: float = 0.5
    dropout: float = 0.0
    remat: bool = False

    first_conv: ClassVar[str] = "conv0"
    torch_head: ClassVar[str] = "classifier"
    torch_module, torch_spelling = staticmethod(module_name), staticmethod(present_name)
    torch_options = nn.nowrap(densenet_options)

    def __post_init__(self):
        one_of("stem_type", self.stem_type, STEMS)
        check_sizes("block_sizes", self.block_sizes)
        for name in ("growth_rate", "num_classes"):
            check_positive(name, getattr(self, name))
        for name in ("bottleneck_width", "stem_width"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if not isinstance(self.compression, Real) or not 0 < self.compression <= 1:
            raise ValueError(f"compression must be over 0 and at most 1; given {self.compression!r}")
        check_rate("dropout", self.dropout)
        super().__post_init__()

    def setup(self):
        conv, norm = self.conv_and_norm(kernel_init=he_normal_fan_in)
        drop = partial(Dropout, self.dropout, self.axis_name)
        layers: dict[str, Any] = dict(conv=conv, norm=norm, drop=drop, folded=self.folded)
        features = self.stem_width or 2 * self.growth_rate
        if self.stem_type == "imagenet":
            self.conv0, self.norm0 = conv_norm(conv, norm, self.folded, features, 7, 2)
        else:
            self.conv0 = conv(features, 3)
        for i, size in enumerate(self.block_sizes):
            if i > 0:
                features = int(features * self.compression)
                check_positive(f"channels of transition{i}, with compression={self.compression},", features)
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
    def join(self) -> str:
        """A layer's output stands beside its input ("concatenate")."""
        return "concatenate"

    @property
    def stages(self) -> list[list[DenseLayer]]:
        """The dense layers of each block; of a bound model."""
        return [block.layers for block in self.blocks]

    @property
    def blocks(self) -> list[DenseBlock]:
        """The dense blocks; of a bound model."""
        return [getattr(self, f"denseblock{i + 1}") for i in range(len(self.block_sizes))]

    @property
    def transitions(self) -> list[Transition]:
        """The transitions between the blocks; of a bound model."""
        return [getattr(self, f"transition{i}") for i in range(1, len(self.block_sizes))]

    def stem(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images (batch, height, width, channels) to the input of the first block."""
        check_images(images.shape)
        check_inference(self.folded, train)
        x = self.conv0(images)
        return norm_relu_max_pool(self.norm0, x, train, 3, 2, padding=1) if self.stem_type == "imagenet" else x

    def enter(self, x: jax.Array, index: int, train: bool = False, moments: Moments | None = None) -> jax.Array:
        """The input of a stage to the input of its dense block: the transition, or nothing before the first."""
        return self.transitions[index - 1](x, train, moments) if index > 0 else x

    def stage(self, x: jax.Array, index: int, train: bool = False) -> jax.Array:
        """The output of stage `index`, counted from 0, for its input."""
        check_inference(self.folded, train)
        return self.blocks[index].grow(self.enter(x, index, train), train)[0]

    def at_once(self, images: jax.Array, train: bool = False) -> jax.Array:
        """The same as a call, but never in chunks; passes each stage's batch statistics on to the next norm."""
        x, moments = self.stem(images, train), None
        for index, block in enumerate(self.blocks):
            x = self.enter(x, index, train, moments)
            x, moments = block.grow(x, train, self._mean_behind(index))
        return self.head(x, train, moments=moments)

    def _mean_behind(self, index: int) -> jax.Array | None:
        """The running mean of the norm that reads the output of a stage."""
        last = index == len(self.blocks) - 1
        stats = (self if last else self.transitions[index]).variables.get("batch_stats", {})
        return stats.get("norm5" if last else "norm", {}).get("mean")

    def last_map(self, x: jax.Array, train: bool = False, moments: Moments | None = None) -> jax.Array:
        """The last stage's output as it is pooled: normalised and activated."""
        return nn.relu(self.norm5(x, train, moments))

    def classify(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, channels) to logits."""
        return self.classifier(x)
