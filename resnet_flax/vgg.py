"""VGG (Simonyan 2015, table 1): stacks of 3×3 convolutions, with and without BatchNorm."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import jax
from flax import linen as nn

from common_flax.checks import check_images, check_positive, check_rate, check_sizes
from layers_flax import (
    BatchNorm,
    Dropout,
    Linear,
    Network,
    NetworkOptions,
    adaptive_avg_pool,
    check_inference,
    conv_norm,
    max_pool,
)
from resnet_flax.torch_weights import module_name, vgg_options


class VGGOptions(NetworkOptions, total=False):
    """Keywords of the constructors of VGGs; `VGG` explains them."""

    width: int
    dropout: float


class VGG(Network):
    """Five stages of 3×3 convolutions, a max pool after each, and three dense layers.

    Without BatchNorm `batch_stats` is empty. Modules are named by torchvision's places in its sequences: `features_0`,
    `classifier_3`. Dropout takes the "dropout" key of `model.apply(…, train=True, rngs={"dropout": key})`.

    Attributes:
        stage_sizes: convolutions in each stage.
        batch_norm: a BatchNorm behind each convolution.
        num_classes: width of the logits.
        width: channels of the first stage; each stage doubles them, up to 8 · width.
        dropout: probability of dropping a value behind the first two dense layers, in training.
        frozen_batch_norm, running_variance, dtype, param_dtype, axis_name, folded: as in
            `layers_flax.Network`.

    Raises:
        ValueError: an option's value is not allowed, or images are not (batch, height, width, channels).
    """

    stage_sizes: Sequence[int]
    batch_norm: bool = False
    num_classes: int = 1000
    width: int = 64
    dropout: float = 0.5

    first_conv: ClassVar[str] = "features_0"
    torch_head: ClassVar[str] = "classifier.6"
    classifies_mean: ClassVar[bool] = False
    torch_module, torch_options = staticmethod(module_name), nn.nowrap(vgg_options)

    def __post_init__(self):
        check_sizes("stage_sizes", self.stage_sizes)
        for name in ("num_classes", "width"):
            check_positive(name, getattr(self, name))
        check_rate("dropout", self.dropout)
        super().__post_init__()

    def setup(self):
        conv, norm = self.conv_and_norm(use_bias=True)
        features: list[Any] = []
        ends = [0]
        for i, size in enumerate(self.stage_sizes):
            channels = min(self.width * 2**i, 8 * self.width)
            for _ in range(size):
                layers = conv_norm(conv, norm, self.folded, channels, 3) if self.batch_norm else [conv(channels, 3)]
                features += [*layers, nn.relu]
            features.append(partial(max_pool, window=2))
            ends.append(len(features))
        self.features, self.ends = features, ends
        small = nn.initializers.normal(0.01)
        dense = partial(nn.Dense, 64 * self.width, kernel_init=small, dtype=self.dtype, param_dtype=self.param_dtype)
        drop = partial(Dropout, self.dropout, self.axis_name)
        last = Linear(self.num_classes, self.param_dtype, small)
        self.classifier: list[Any] = [dense(), nn.relu, drop(), dense(), nn.relu, drop(), last]

    def stem(self, images: jax.Array, train: bool = False) -> jax.Array:
        """The images themselves: VGG begins with its first stage."""
        check_images(images.shape)
        check_inference(self.folded, train)
        return images

    def stage(self, x: jax.Array, index: int, train: bool = False) -> jax.Array:
        """The output of stage `index`, counted from 0, behind its max pool."""
        check_inference(self.folded, train)
        for layer in self.features[self.ends[index] : self.ends[index + 1]]:
            x = layer(x, train) if isinstance(layer, BatchNorm) else layer(x)
        return x

    def pool(self, x: jax.Array) -> jax.Array:
        """7×7 means of the last map side by side, which are classified: (batch, 49 · channels)."""
        x = adaptive_avg_pool(x, 7)
        # PyTorch flattens channels first; the first dense layer's rows are in that order.
        return x.transpose(0, 3, 1, 2).reshape(x.shape[0], 49 * x.shape[-1])

    def classify(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, 49 · channels) to logits, by the dense layers."""
        for layer in self.classifier:
            x = layer(x, train) if isinstance(layer, Dropout) else layer(x)
        return x
