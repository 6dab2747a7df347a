"""ResNet of stem, stages and head (He 2015, table 1), and PlainNet, the same without shortcuts."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn

from common_flax.checks import check_images, check_positive, check_rate, check_sizes, one_of
from layers_flax import (
    DropPath,
    Linear,
    Network,
    NetworkOptions,
    check_inference,
    conv_norm,
    norm_relu_max_pool,
    optimization_barrier,
    remat,
    torch_linear,
)
from resnet_flax.blocks import STRIDES, BasicBlock, check_block
from resnet_flax.scan import REST, roll, stack_of, unstack
from resnet_flax.shortcut import SHORTCUTS
from resnet_flax.torch_weights import module_name, resnet_options

STEMS = ("imagenet", "cifar")
# The padding of blocks' convolutions, and that of the max pool.
PADDINGS: dict[str, tuple[Any, Any]] = {"torch": (None, 1), "same": ("same", "same")}


class ResNetOptions(NetworkOptions, total=False):
    """Keywords of the constructors of residual and plain networks; `ResNet` explains them."""

    stem_type: str
    shortcut: str | None
    width: int
    stem_width: int | None
    groups: int
    width_per_group: int
    bottleneck_stride: str
    padding: str
    zero_init: bool
    drop_path: float
    remat: bool
    scan: bool


class ResNet(Network):
    """A residual network: stem, stages of blocks, head.

    The parts can be called one by one with the same variables, as those of any `layers_flax.Network`; and on
    `model.bind(variables)` each block of `stages[i][j]`.

    Attributes:
        stage_sizes: blocks in each stage; each stage after the first halves the image and doubles the channels.
        block: `BasicBlock`, `BottleneckBlock`, `PreActBasicBlock`, `PreActBottleneckBlock`, or a class of one's own
            like `ResidualBlock`.
        num_classes: width of the logits.
        stem_type: "imagenet", a 7×7 convolution of stride 2 and a 3×3 max pool of stride 2; "cifar", a 3×3
            convolution.
        shortcut: "A" (zero padding), "B" (projection where shapes change), "C" (projection everywhere).
        width: `features` of the first stage's blocks.
        stem_width: channels of the stem; None is `width`.
        groups, width_per_group: of a bottleneck's 3×3 convolution (Xie 2017, Zagoruyko 2016).
        bottleneck_stride: "v1.5" (torchvision) or "v1" (He 2015).
        padding: "torch", or "same", Flax's and TensorFlow's default, in which strided 3×3 convolutions and the max pool
            see a pixel less at the upper and left edges of images of even size: for weights that were trained so.
        zero_init: each block starts as its shortcut (Goyal 2017).
        drop_path: probability with which the last block's residual is dropped in training; it grows linearly from 0
            with the blocks (stochastic depth; Huang et al., arXiv:1603.09382). Takes the "dropout" key, see `DropPath`.
        remat: keep each block's input alone for the backward pass, and run the block again there: less memory for
            about a third more time.
        scan: run the blocks of a stage behind its first as a loop (`lax.scan`), which computes the same, compiles once
            for all of them, and keeps their inputs alone for the backward pass, as `remat` does: for very deep
            networks. On the CPU XLA's loops are slow with `groups` or 16 bits. Where feature maps are watched
            (`capture_intermediates`), variables are made, paths are dropped, or the network is folded, blocks run one
            by one all the same. Blocks of one's own must draw no random numbers. Takes stacked variables too, see
            `stack_blocks`.
        frozen_batch_norm, running_variance, dtype, param_dtype, axis_name, folded: as in
            `layers_flax.Network`.

    Raises:
        ValueError: an option's value is not allowed, or images are not (batch, height, width, channels).
    """

    stage_sizes: Sequence[int]
    block: Any = BasicBlock
    num_classes: int = 1000
    stem_type: str = "imagenet"
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

    first_conv: ClassVar[str] = "conv1"
    torch_head: ClassVar[str] = "fc"
    torch_module, torch_options = staticmethod(module_name), nn.nowrap(resnet_options)

    def __post_init__(self):
        check_block(self.block)
        one_of("stem_type", self.stem_type, STEMS)
        one_of("shortcut", self.shortcut, SHORTCUTS)
        one_of("bottleneck_stride", self.bottleneck_stride, STRIDES)
        one_of("padding", self.padding, PADDINGS)
        check_sizes("stage_sizes", self.stage_sizes)
        for name in ("num_classes", "width", "groups", "width_per_group"):
            check_positive(name, getattr(self, name))
        if self.stem_width is not None:
            check_positive("stem_width", self.stem_width)
        check_rate("drop_path", self.drop_path)
        if (self.groups, self.width_per_group) != (1, 64) and not hasattr(self.block, "groups"):
            raise ValueError(f"groups={self.groups}, width_per_group={self.width_per_group} need a bottleneck block")
        if self.shortcut is None and self.zero_init:
            raise ValueError("zero_init=True would make a plain network output zero; it needs shortcuts")
        if self.shortcut is None and self.drop_path:
            raise ValueError(f"drop_path={self.drop_path} would cut a plain network in two; it needs shortcuts")
        super().__post_init__()

    def setup(self):
        conv, norm = self.conv_and_norm()
        window = (7, 2) if self.stem_type == "imagenet" else (3, 1)
        self.conv1, self.bn1 = conv_norm(conv, norm, self.folded, self.stem_width or self.width, *window)
        conv = partial(conv, padding=PADDINGS[self.padding][0])
        options: dict[str, Any] = dict(shortcut=self.shortcut, zero_init=self.zero_init)
        options |= dict(conv=conv, norm=norm, folded=self.folded)
        if hasattr(self.block, "groups"):
            options |= dict(groups=self.groups, width_per_group=self.width_per_group)
            options |= dict(bottleneck_stride=self.bottleneck_stride)
        block = remat(self.block) if self.remat else self.block
        rates = iter(np.linspace(0, self.drop_path, sum(self.stage_sizes)).tolist())
        for i, size in enumerate(self.stage_sizes):
            blocks = []
            for j in range(size):
                first = dict(activated=True) if hasattr(self.block, "activated") and i == j == 0 else {}
                stride = 2 if i > 0 and j == 0 else 1
                drop = partial(DropPath, next(rates), self.axis_name)
                blocks.append(block(self.width * 2**i, stride, drop=drop, **first, **options))
            setattr(self, f"layer{i + 1}", blocks)
        if self.block.pre_activation:
            self.norm = norm()
        self.fc = Linear(self.num_classes, self.param_dtype, torch_linear)

    @property
    def stages(self) -> list[list[Any]]:
        """The blocks of each stage; of a bound model."""
        return [getattr(self, f"layer{i + 1}") for i in range(len(self.stage_sizes))]

    @property
    def join(self) -> str:
        """The sum is left alone ("add") in pre-activation networks, and activated ("relu") in others."""
        return "add" if self.block.pre_activation else "relu"

    @property
    def has_shortcuts(self) -> bool:
        """True but in plain networks."""
        return self.shortcut is not None

    def stem(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images (batch, height, width, channels) to the input of the first stage."""
        check_images(images.shape)
        check_inference(self.folded, train)
        x = self.conv1(images)
        if self.stem_type == "imagenet":
            return norm_relu_max_pool(self.bn1, x, train, 3, 2, PADDINGS[self.padding][1])
        return nn.relu(self.bn1(x, train))

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
        """Tells if `count` equal blocks run as a loop; see `scan`."""
        watched = self.is_initializing() or self.is_mutable_collection("intermediates")
        # A folded network's few images are not worth stacking its weights.
        return self.scan and count > 1 and not (watched or self.folded or (train and self.drop_path))

    def last_map(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last stage's output as it is pooled; a pre-activation network normalises and activates it here."""
        return nn.relu(self.norm(x, train)) if self.block.pre_activation else x

    def classify(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(batch, channels) to logits."""
        return self.fc(x)


class PlainNet(ResNet):
    """A ResNet whose shortcuts are taken away: each block is relu(F(x)) (He 2015, figure 3, middle)."""

    shortcut: str | None = None

    def __post_init__(self):
        one_of("shortcut of a plain network", self.shortcut, (None,))
        super().__post_init__()
