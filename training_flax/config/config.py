"""The options of a training run, typed and checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from math import inf
from operator import lt
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common_flax.checks import check_positive, check_rate, one_of
from common_flax.renamed import renamed_keyword
from training_flax.augment.registry import parse_augmentations
from training_flax.data.decode import CROP_RULES, INTERPOLATIONS
from training_flax.data.open import KINDS
from weights_flax.formats.run import WHICH
from weights_flax.io.archs import ARCHS, build_model

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16, "float64": jnp.float64}

# MODEL options go to the network's constructor under the same names. RUN options never change a run's numbers, so they
# may differ when the run resumes.
MODEL, RUN = {"reaches": "model"}, {"reaches": "run"}

OLD_NAMES = {"optimiser": "optimizer", "stem": "stem_type"}
"""Old names of options, and their new names; old names are read everywhere and written nowhere."""

BEFORE = {"ema_warmup": False, "test_crop_rule": "centred"}
"""Values of options in runs that began before there was the option, where they differ from the default of new runs."""


@dataclass(frozen=True)
class TrainConfig:
    """The options of a training run. Options that are None come from the recipe, see `with_recipe` and `RECIPES`."""

    arch: str
    """Architecture: one of those listed above."""
    data: str = "digits"
    """Data set: "digits" (scikit-learn's, no download), "folder:PATH", "tfds:NAME[:VERSION]", "tfds:NAME:80%" or
    "fake:HEIGHTxWIDTHxCHANNELS:CLASSES"."""
    recipe: str | None = None
    """Recipe with defaults for the other options: one of those listed above. Left out, data and network decide."""

    data_dir: Path | None = field(default=None, metadata=RUN)
    """Folder of the data sets that TFDS has prepared."""
    train_split: str | None = None
    """Split to train on: of TFDS, as TFDS spells it, such as "train[:80%]"; or a folder in PATH. Left out, train."""
    test_split: str | None = None
    """Split to test on. Left out, test, or else validation, val and the like."""
    strict: bool = field(default=False, metadata=RUN)
    """End with an error if a file among the images of a folder is none; left out, it is passed over and told."""
    image_size: int | None = None
    """Height and width that images are resized to, in pixels. Left out, images of one common size keep it."""
    test_image_size: int | None = None
    """Height and width of images in evaluation; left out, those of training."""
    test_crop: float | None = None
    """Share of a resized test image's shorter side that the centre crop keeps. Left out, the weights' own, or 0.875."""
    test_crop_rule: str | None = None
    """Rounding of the centre crop: torchvision, timm or centred. Left out, the weights' own, or torchvision."""
    interpolation: str | None = None
    """bilinear or bicubic, of images that are resized. Left out, the weights' own, or bilinear."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, for pixels from 0 to 1. Left out, the mean in the weights' file, or else of the data."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, for pixels from 0 to 1."""
    weights: str | None = None
    """Weights to start from: a run's folder, hf://OWNER/NAME, or a file of safetensors, PyTorch, .npz, Keras or Flax,
    with our tensor names or those of torchvision, timm and others."""
    which: str | None = None
    """Weights of a run that is started from or evaluated: averaged or last. Left out, averaged if the run has any."""
    num_classes: int | None = None
    """Number of classes of the data. If the weights have another number, the classifier starts from random values."""
    new_head: bool = False
    """Start the classifier from random values, whatever classes the weights have, and whatever its name."""
    ignore_unused: bool = False
    """Pass over entries of the weights' file beside the network; they are refused else."""

    epochs: int | None = None
    """Passes over the train split."""
    steps: int | None = None
    """Steps to train for, instead of epochs."""
    batch_size: int | None = None
    """Images per step, on all devices together."""
    accumulate: int | None = None
    """Micro-batches per batch: a step adds up their gradients, and BatchNorm sees them one by one."""

    augment: tuple[str, ...] | None = None
    """Changes of train images: affine, pad-crop, flip, random-resized-crop, color, rand-augment (:AMOUNT); or none."""
    mixup: float | None = None
    """Parameter of mixup's Beta distribution; 0 is no mixup."""
    cutmix: float | None = None
    """Parameter of CutMix's Beta distribution; 0 is no CutMix."""
    augment_until: float | None = None
    """Share of the training in which images are augmented and mixed. The rest trains on unchanged images (He et al.,
    arXiv:1909.09148), so that BatchNorm's statistics fit the test images. 1 augments to the end."""
    label_smoothing: float | None = None
    """Share of each target that is spread evenly over all classes."""
    loss: str | None = None
    """softmax (cross-entropy over classes) or binary (cross-entropy of each class on its own)."""

    optimizer: str | None = None
    """sgd, lamb or adamw."""
    lr: float | None = None
    """Peak learning rate."""
    lr_scaling: str | None = None
    """none, or linear: the peak learning rate is lr · batch_size / 256 (Goyal et al., arXiv:1706.02677)."""
    momentum: float | None = None
    """Momentum of sgd."""
    nesterov: bool | None = None
    """Nesterov's form of momentum."""
    weight_decay: float | None = None
    """Weight decay."""
    decay: str | None = None
    """Parameters that decay: all, or kernels (no biases, no BatchNorm)."""
    schedule: str | None = None
    """After warm-up: constant; step, a tenth at each share in decay_at; cosine, to 0; whole-cosine, from step 0 on."""
    decay_at: tuple[float, ...] | None = None
    """Shares of the training at which the step schedule divides the learning rate."""
    warmup: float | None = None
    """Share of the training in which the learning rate warms up."""
    warmup_lr: float | None = None
    """Learning rate at the start of the warm-up."""
    warmup_shape: str | None = None
    """linear, from warmup_lr to the peak; or constant at warmup_lr."""
    clip_norm: float | None = None
    """Largest norm of the gradient; a larger gradient is scaled down to this norm. 0 is no limit."""
    ema: float | None = None
    """Decay of the weights' moving average at each step; the averaged weights are evaluated too. 0 is no average."""
    ema_warmup: bool | None = None
    """Let the decay rise to `ema` from 0 at the first step, so that the average forgets the initial weights in short
    runs too. Left out, a run that exists goes on as it began."""
    freeze: tuple[str, ...] = ()
    """Parameters, and statistics beside them, that training does not change: patterns such as "conv1/*", "layer1_*"."""

    stem_type: str | None = field(default=None, metadata=MODEL)
    """Stem of the network: imagenet or cifar."""
    shortcut: str | None = field(default=None, metadata=MODEL)
    """Shortcuts of a ResNet: A, B or C."""
    bottleneck_stride: str | None = field(default=None, metadata=MODEL)
    """Convolution of bottleneck blocks that strides: the 3×3 in v1.5 (torchvision), the 1×1 in v1 (He 2015, Keras)."""
    padding: str | None = field(default=None, metadata=MODEL)
    """Padding of strided convolutions of a ResNet: torch, or same (Flax's ImageNet example)."""
    width: int | None = field(default=None, metadata=MODEL)
    """Channels of the first stage of a ResNet or VGG."""
    growth_rate: int | None = field(default=None, metadata=MODEL)
    """Channels that each layer of a DenseNet adds."""
    zero_init: bool | None = field(default=None, metadata=MODEL)
    """Start the last scale of each residual branch at 0, so that a block computes its shortcut alone."""
    dropout: float | None = field(default=None, metadata=MODEL)
    """Dropout of a DenseNet or VGG."""
    drop_path: float | None = field(default=None, metadata=MODEL)
    """Stochastic depth of a ResNet."""
    remat: bool | None = field(default=None, metadata=MODEL)
    """Run blocks again in the backward pass instead of keeping their inner values: less memory, more time."""
    frozen_batch_norm: bool | None = field(default=None, metadata=MODEL)
    """Normalise by the running statistics in training too, and never update them."""

    dtype: str = "float32"
    """Compute type: float32, bfloat16, float16 (loss scaling) or float64. Parameters stay float32 at least."""
    batch_norm: str = "global"
    """global: statistics over the whole batch; local: over each device's share of it."""
    reduce_dtype: str = "float32"
    """Type in which devices add their gradients; with bfloat16 they send half as much."""
    max_skipped: int = 20
    """Number of steps in a row, skipped because of infinite or NaN values, after which the run stops."""
    seed: int = 0
    """Seed of the initial parameters, of the order of the data and of all augmentation."""

    parallel: str = field(default="jit", metadata=RUN)
    """jit (one program over sharded arrays) or pmap (one program per device)."""
    shard_state: bool = field(default=False, metadata=RUN)
    """Shard the optimizer's state and the averaged weights over the devices."""
    workers: int | None = field(default=None, metadata=RUN)
    """Threads that decode images while steps run; left out, one per core."""
    checkpoint_minutes: float = field(default=10.0, metadata=RUN)
    """Minutes between checkpoints; every epoch ends with one as well."""
    tensorboard: bool = field(default=False, metadata=RUN)
    """Write metrics for TensorBoard too."""
    wandb: str | None = field(default=None, metadata=RUN)
    """Project at Weights & Biases to write metrics to."""
    profile: bool = field(default=False, metadata=RUN)
    """Write a trace of a few steps to the run's folder."""
    out: Path | None = field(default=None, metadata=RUN)
    """Folder of the run; an existing run continues where it stopped. Left out, a new folder under runs/."""


TrainConfig.__init__ = renamed_keyword(TrainConfig.__init__, **OLD_NAMES)  # type: ignore[method-assign]


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(TrainConfig):
    """The options of a run after `with_recipe`, with defaults for options that neither user nor recipe sets."""

    recipe: str
    test_crop: float = 0.875
    test_crop_rule: str = "torchvision"
    interpolation: str = "bilinear"
    batch_size: int
    accumulate: int = 1
    augment: tuple[str, ...] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    augment_until: float = 1.0
    label_smoothing: float = 0.0
    loss: str = "softmax"
    optimizer: str = "sgd"
    lr: float
    lr_scaling: str = "none"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay: str = "all"
    schedule: str = "step"
    decay_at: tuple[float, ...] = (0.5, 0.75)
    warmup: float = 0.0
    warmup_lr: float = 0.0
    warmup_shape: str = "linear"
    clip_norm: float = 0.0
    ema: float = 0.0
    ema_warmup: bool = True


def reaching(purpose: dict[str, str]) -> tuple[str, ...]:
    """Returns the names of the options with this metadata: MODEL or RUN."""
    return tuple(option.name for option in fields(TrainConfig) if option.metadata == purpose)


def build_network(config: TrainConfig, num_classes: int) -> nn.Module:
    """Builds the network of a config with its MODEL options; raises as `build_model`."""
    options: dict[str, Any] = {name: getattr(config, name) for name in reaching(MODEL)}
    options = {name: value for name, value in options.items() if value is not None}
    if config.dtype == "float64":
        options["param_dtype"] = jnp.float64
    return build_model(config.arch, num_classes=num_classes, dtype=DTYPES[config.dtype], **options)


def check(config: TrainConfig) -> None:
    """Raises ValueError, which names the value and the allowed ones, if an option has a wrong value."""
    check_values({option.name: getattr(config, option.name) for option in fields(config)})


def check_values(options: Mapping[str, Any]) -> None:
    """Checks as `check` the options that are given, by their names."""
    mean, std, epochs, steps = (options.get(name) for name in ("mean", "std", "epochs", "steps"))
    if (mean is None) != (std is None):
        raise ValueError(f"give mean and std, or neither; given mean={mean} and std={std}")
    for name in ("new_head", "which", "ignore_unused"):
        if options.get(name) and options.get("weights") is None:
            raise ValueError(f"{name} is for weights to start from; none are given")
    if epochs is not None and steps is not None:
        raise ValueError(f"give epochs or steps, not both; given epochs={epochs} and steps={steps}")
    for name, check_value in CHECKS.items():
        if (value := options.get(name)) is not None:
            check_value(name, value)


def _must_be(allowed: str, is_allowed: Callable[[Any], bool]) -> Callable[[str, Any], None]:
    def check_value(name: str, value: Any) -> None:
        if not is_allowed(value):
            raise ValueError(f"{name} must be {allowed}; given {value!r}")

    return check_value


_positive = _must_be("positive and finite", lambda number: 0 < number < inf)
_not_negative = _must_be("at least 0 and finite", lambda number: 0 <= number < inf)
_share = _must_be("over 0 and at most 1", lambda number: 0 < number <= 1)

CHECKS: dict[str, Callable[[str, Any], object]] = {
    "arch": partial(one_of, allowed=ARCHS),
    "data": lambda name, value: one_of("data set", value.partition(":")[0], KINDS),
    **dict.fromkeys(("image_size", "test_image_size", "epochs", "steps", "batch_size"), check_positive),
    **dict.fromkeys(("accumulate", "num_classes", "max_skipped", "workers"), check_positive),
    **dict.fromkeys(("lr", "checkpoint_minutes"), _positive),
    **dict.fromkeys(("mixup", "cutmix", "weight_decay", "warmup_lr", "clip_norm"), _not_negative),
    **dict.fromkeys(("momentum", "label_smoothing", "warmup", "ema"), check_rate),
    **dict.fromkeys(("test_crop", "augment_until"), _share),
    "mean": _must_be("finite", lambda mean: all(-inf < number < inf for number in mean)),
    "std": lambda name, std: [_positive(name, number) for number in std],
    "which": partial(one_of, allowed=WHICH),
    "augment": lambda name, value: parse_augmentations(value),
    "decay_at": _must_be("rising shares over 0 and under 1", lambda given: all(map(lt, (0, *given), (*given, 1)))),
    "test_crop_rule": partial(one_of, allowed=CROP_RULES),
    "interpolation": partial(one_of, allowed=INTERPOLATIONS),
    "loss": partial(one_of, allowed=("softmax", "binary")),
    "optimizer": partial(one_of, allowed=("sgd", "lamb", "adamw")),
    "lr_scaling": partial(one_of, allowed=("none", "linear")),
    "decay": partial(one_of, allowed=("all", "kernels")),
    "schedule": partial(one_of, allowed=("constant", "step", "cosine", "whole-cosine")),
    "warmup_shape": partial(one_of, allowed=("linear", "constant")),
    "dtype": partial(one_of, allowed=DTYPES),
    "batch_norm": partial(one_of, allowed=("global", "local")),
    "reduce_dtype": partial(one_of, allowed=("float32", "bfloat16")),
    "parallel": partial(one_of, allowed=("jit", "pmap")),
    "seed": _must_be("from 0 to 4294967295", lambda seed: 0 <= seed < 2**32),
}
