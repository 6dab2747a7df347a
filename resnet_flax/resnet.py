"""ResNet of stem, stages and head (He 2015, table 1), and PlainNet, the same without shortcuts."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common_flax.checks import check_images, check_positive, check_rate, one_of
from layers_flax import (
    BatchNorm,
    Conv,
    DropPath,
    Linear,
    Network,
    ScaleShift,
    check_inference,
    conv_norm,
    folded_logits,
    global_avg_pool,
    inference_conv2d,
    max_pool,
    optimization_barrier,
    remat,
)
from layers_flax.model.initializers import torch_linear
from resnet_flax.blocks import STRIDES, BasicBlock
from resnet_flax.scan import REST, roll, stack_of, unstack
from resnet_flax.shortcut import SHORTCUTS
from resnet_flax.torch_weights import module_name

STEMS = ("imagenet", "cifar")
PADDINGS: dict[str, tuple[Any, Any]] = {
    "torch": (None, 1),
    "same": ("same", "same"),
}  # of blocks' convolutions, and of the max pool


class ResNet(Network):
    """A residual network: stem, stages of blocks, head.

    `init` returns exactly {"params", "batch_stats"}. The parts can be called one by one with the same variables:
    `model.apply(variables, images, method="stem")`, `(…, x, 0, method="stage")`, `(…, x, method="head")`; and on
    `model.bind(variables)` each block of `stages[i][j]`.

    Attributes:
        stage_sizes: blocks in each stage; each stage after the first halves the image and doubles the channels.
        block: `BasicBlock`, `BottleneckBlock`, `PreActBasicBlock` or `PreActBottleneckBlock`.
        num_classes: width of the logits.
        stem_kind: "imagenet", a 7×7 convolution of stride 2 and a 3×3 max pool of stride 2; "cifar", a 3×3
            convolution. (The constructors' keyword `stem`.)
        shortcut: "A" (zero padding), "B" (projection where shapes change), "C" (projection everywhere).
        width: `features` of the first stage's blocks.
        stem_width: channels of the stem; None is `width`.
        groups, width_per_group: of a bottleneck's 3×3 convolution (Xie 2017, Zagoruyko 2016).
        bottleneck_stride: "v1.5" (torchvision) or "v1" (He 2015).
        padding: "torch", or "same", Flax's and TensorFlow's default, in which strided 3×3 convolutions and the max pool
            see a pixel less at the upper and left edges of images of even size: for weights that were trained so.
        zero_init: each block starts as its shortcut (Goyal 2017).
        drop_path: rate at which the last block's residual is dropped in training; it grows linearly from 0 with the
            blocks (stochastic depth; Huang et al., arXiv:1603.09382). Takes the "dropout" key, see `DropPath`.
        remat: keep each block's input alone for the backward pass, and run the block again there: less memory for
            about a third more time.
        scan: run the blocks of a stage behind its first as a loop (`lax.scan`), which computes the same, compiles once
            for all of them, and keeps their inputs alone for the backward pass, as `remat` does: for very deep
            networks. On the CPU XLA's loops are slow with `groups` or 16 bits. Where feature maps are watched
            (`capture_intermediates`), variables are made, paths are dropped, or the network is folded, blocks run one
            by one all the same. Blocks of one's own must draw no random numbers. Takes what `stack_blocks` gives, too.
        frozen_batch_norm: running statistics normalise in training too, and stay as they are.
        running_variance: "biased" or "unbiased", see `BatchNorm`.
        dtype: the compute type; None is the promotion of images and parameters. Logits are at least float32.
        param_dtype: type of the parameters; BatchNorm's statistics are float32 or wider.
        axis_name: a mapped axis over which batch statistics are taken.
        folded: for inference alone, as `weights_flax.fold_batch_norm` makes it: a BatchNorm behind a convolution is
            part of it, any other is a scale and a shift.

    Raises:
        ValueError: an option's value is not allowed, or images are not of rank 4.
    """

    stage_sizes: Sequence[int]
    block: Any = BasicBlock
    num_classes: int = 1000
    stem_kind: str = "imagenet"
    shortcut: str | None = "B"
    width: int = 64
    stem_width: int | None = None
    groups: int = 1
    width_per_group: int = 64
    bottleneck_stride: str = "v1.5"
    padding: str = "torch"
    zero_init: bool = False
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = False
    frozen_batch_norm: bool = False
    running_variance: str = "biased"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    folded: bool = False

    first_conv, torch_head = "conv1", "fc"
    torch_module = staticmethod(module_name)

    def __post_init__(self):
        one_of("stem", self.stem_kind, STEMS)
        one_of("shortcut", self.shortcut, SHORTCUTS)
        one_of("bottleneck_stride", self.bottleneck_stride, STRIDES)
        one_of("padding", self.padding, PADDINGS)
        for name in ("num_classes", "width", "groups", "width_per_group"):
            check_positive(name, getattr(self, name))
        check_rate("drop_path", self.drop_path)
        if (self.groups, self.width_per_group) != (1, 64) and self.block.expansion == 1:
            raise ValueError(f"groups={self.groups}, width_per_group={self.width_per_group} need a bottleneck block")
        if self.shortcut is None and self.zero_init:
            raise ValueError("zero_init=True would make a plain network output zero; it needs shortcuts")
        if self.shortcut is None and self.drop_path:
            raise ValueError(f"drop_path={self.drop_path} would cut a plain network in two; it needs shortcuts")
        super().__post_init__()

    def setup(self):
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        conv: Callable[..., Conv] = partial(Conv, convolve=inference_conv2d if self.folded else None, **types)
        norm: Callable[..., nn.Module] = partial(ScaleShift, **types)
        if not self.folded:
            norm = partial(
                BatchNorm,
                running_variance=self.running_variance,
                frozen=self.frozen_batch_norm,
                axis_name=self.axis_name,
                **types,
            )
        stem_width = self.stem_width or self.width
        window = (7, 2) if self.stem_kind == "imagenet" else (3, 1)
        self.conv1, self.bn1 = conv_norm(conv, norm, self.folded, stem_width, *window)
        conv = partial(conv, padding=PADDINGS[self.padding][0])
        options: dict[str, Any] = dict(shortcut=self.shortcut, zero_init=self.zero_init)
        options |= dict(conv=conv, norm=norm, folded=self.folded)
        if self.block.expansion > 1:
            options |= dict(groups=self.groups, width_per_group=self.width_per_group)
            options |= dict(bottleneck_stride=self.bottleneck_stride)
        block = remat(self.block) if self.remat else self.block
        rates = iter(np.linspace(0, self.drop_path, sum(self.stage_sizes)).tolist())
        for i, size in enumerate(self.stage_sizes):
            blocks = []
            for j in range(size):
                first = dict(activated=True) if self.block.pre_activation and i == j == 0 else {}
                stride = 2 if i > 0 and j == 0 else 1
                drop = partial(DropPath, next(rates), self.axis_name)
                blocks.append(block(self.width * 2**i, stride, drop=drop, **first, **options))
            setattr(self, f"layer{i + 1}", blocks)
        if self.block.pre_activation:
            self.norm = norm()
        self.fc = Linear(self.num_classes, self.param_dtype, torch_linear)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The blocks of each stage; of a bound model."""
        return [getattr(self, f"layer{i + 1}") for i in range(len(self.stage_sizes))]

    def stem(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images (batch, height, width, channels) to what the first stage takes."""
        check_images(images.shape)
        check_inference(self.folded, train)
        x = nn.relu(self.bn1(self.conv1(images), train))
        return max_pool(x, 3, 2, PADDINGS[self.padding][1]) if self.stem_kind == "imagenet" else x

    def stage(self, x: jax.Array, index: int, train: bool = False) -> jax.Array:
        """The output of stage `index`, counted from 0, for its input."""
        check_inference(self.folded, train)
        blocks = self.stages[index]
        if self._is_rolled(len(blocks) - 1, train):
            return self._loop(blocks[1:], blocks[0](x, train), train, f"layer{index + 1}_{REST}")
        if self.has_variable("params", f"layer{index + 1}_{REST}"):
            raise ValueError(f"blocks of layer{index + 1} are stacked, and run one by one here; see unstack_blocks")
        for block in blocks:
            x = optimization_barrier(block(x, train))
        return x

    def _loop(self, blocks: list[nn.Module], x: jax.Array, train: bool, name: str) -> jax.Array:
        """A stage's blocks behind its first as a loop, over variables that are stacked, as `name`, already or here."""
        update = train and not self.frozen_batch_norm and self.is_mutable_collection("batch_stats")
        block: nn.Module = blocks[0].clone(parent=None, name=None)
        collections = [each for each in ("params", "batch_stats") if self.has_variable(each, name)]
        stacked: dict[str, Any] = {each: self.get_variable(each, name) for each in collections}
        x, stats = roll(block, stacked or stack_of(blocks), x, train, update=update, remat=self.remat)
        if stats and stacked:
            self.put_variable("batch_stats", name, stats)
        elif stats:
            for index, each in enumerate(blocks):
                for layer, tree in unstack(stats, index).items():
                    each.put_variable("batch_stats", layer, tree)
        return x

    @nn.nowrap
    def _is_rolled(self, count: int, train: bool) -> bool:
        """Whether `count` blocks that are alike run as a loop; see `scan`."""
        watched = self.is_initializing() or self.is_mutable_collection("intermediates")
        # A folded network's few images are not worth stacking its weights.
        return self.scan and count > 1 and not (watched or self.folded or (train and self.drop_path))

    def head(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last stage's output to logits (batch, num_classes), float32 or wider."""
        check_inference(self.folded, train)
        return self.classify(self.pool(self.last_map(x, train)))

    def last_map(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last stage's output as it is pooled: of a pre-activation network normalised and activated."""
        return nn.relu(self.norm(x, train)) if self.block.pre_activation else x

    def pool(self, x: jax.Array) -> jax.Array:
        """The last map to what is classified, its mean over all pixels: (batch, channels), float32 or wider."""
        return global_avg_pool(x, fused=self.folded)

    def classify(self, x: jax.Array) -> jax.Array:
        """(batch, channels) to logits."""
        return self.fc(x)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images (batch, height, width, channels) to logits (batch, num_classes), float32 or wider.

        With `train`, BatchNorm takes the batch's statistics, and updates the running ones if they are mutable.
        """
        if self.folded and not train:
            return folded_logits(self, images)
        return self.at_once(images, train)

    def at_once(self, images: jax.Array, train: bool = False) -> jax.Array:
        """As a call, but never in chunks, as folded networks run (`layers_flax.folded_logits`)."""
        x = self.stem(images, train)
        for index in range(len(self.stage_sizes)):
            x = self.stage(x, index, train)
        return self.head(x, train)


class PlainNet(ResNet):
    """A ResNet whose shortcuts are taken away: each block is relu(F(x)) (He 2015, figure 3, middle)."""

    shortcut: str | None = None

    def __post_init__(self):
        one_of("shortcut of a plain network", self.shortcut, (None,))
        super().__post_init__()
