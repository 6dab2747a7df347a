"""VGG (Simonyan 2015, table 1): stacks of 3×3 convolutions, with and without BatchNorm."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common_flax.checks import check_images, check_positive, check_rate
from layers_flax import (
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    Network,
    adaptive_avg_pool,
    check_inference,
    conv_norm,
    inference_conv2d,
    max_pool,
)
from resnet_flax.torch_weights import module_name


class VGG(Network):
    """Five stages of 3×3 convolutions, a max pool after each, and three dense layers.

    `init` returns exactly {"params", "batch_stats"}, the latter empty without BatchNorm. Modules are named by
    torchvision's places in its sequences: `features_0`, `classifier_3`. Dropout takes the "dropout" key of
    `model.apply(…, train=True, rngs={"dropout": key})`.

    Attributes:
        stage_sizes: convolutions in each stage.
        batch_norm: a BatchNorm behind each convolution.
        num_classes: width of the logits.
        width: channels of the first stage; each stage doubles them, up to 8 · width.
        dropout: rate behind the first two dense layers, in training.
        frozen_batch_norm, running_variance, dtype, param_dtype, axis_name, folded: as in `ResNet`.

    Raises:
        ValueError: an option's value is not allowed, or images are not of rank 4 or under 32 pixels.
    """

    stage_sizes: Sequence[int]
    batch_norm: bool = False
    num_classes: int = 1000
    width: int = 64
    dropout: float = 0.5
    frozen_batch_norm: bool = False
    running_variance: str = "biased"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    folded: bool = False

    first_conv, torch_head = "features_0", "classifier.6"
    torch_module = staticmethod(module_name)

    def __post_init__(self):
        for name in ("num_classes", "width"):
            check_positive(name, getattr(self, name))
        check_rate("dropout", self.dropout)
        super().__post_init__()

    def setup(self):
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        convolve = inference_conv2d if self.folded else None
        conv: Callable[..., Conv] = partial(Conv, use_bias=True, convolve=convolve, **types)
        norm = partial(
            BatchNorm,
            running_variance=self.running_variance,
            frozen=self.frozen_batch_norm,
            axis_name=self.axis_name,
            **types,
        )
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
        dense = partial(nn.Dense, 64 * self.width, kernel_init=nn.initializers.normal(0.01), **types)
        drop = partial(Dropout, self.dropout, self.axis_name)
        last = Linear(self.num_classes, self.param_dtype, nn.initializers.normal(0.01))
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

    def head(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last stage's output to logits (batch, num_classes), float32 or wider."""
        check_inference(self.folded, train)
        return self.classify(self.pool(self.last_map(x)), train)

    def last_map(self, x: jax.Array) -> jax.Array:
        """The last stage's output as it is pooled: it is activated already."""
        return x

    def pool(self, x: jax.Array) -> jax.Array:
        """The last map to what is classified, 7×7 means side by side: (batch, 49 · channels)."""
        x = adaptive_avg_pool(x, 7)
        # PyTorch flattens channels first; the first dense layer's rows are in that order.
        return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)

    def classify(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, 49 · channels) to logits, by the dense layers."""
        for layer in self.classifier:
            x = layer(x, train) if isinstance(layer, Dropout) else layer(x)
        return x

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images (batch, height, width, channels) to logits (batch, num_classes), float32 or wider."""
        x = self.stem(images, train)
        for index in range(len(self.stage_sizes)):
            x = self.stage(x, index, train)
        return self.head(x, train)
