"""What a training run is made of, typed and checked."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common_flax.checks import check_positive, check_rate, one_of
from training_flax.augment.registry import parse_augmentations
from training_flax.data.open import DATASETS
from weights_flax.io.archs import ARCHS, build_model

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16, "float64": jnp.float64}
OPTIMISERS = ("sgd", "lamb", "adamw")
SCHEDULES = ("constant", "step", "cosine")

# MODEL options go to the network's constructor, under their own names. RUN options never change a number of the run, so
# they may differ when it resumes.
MODEL, RUN = {"reaches": "model"}, {"reaches": "run"}


@dataclass(frozen=True)
class TrainConfig:
    """The options of a training run. What is left open (None) is the recipe's, see `RECIPES`."""

    arch: str
    """Architecture: one of those listed above."""
    data: str = "digits"
    """Data set: "digits" (scikit-learn's, no download), "folder:PATH", "tfds:NAME[:VERSION]" or
    "fake:HEIGHTxWIDTHxCHANNELS:CLASSES"."""
    recipe: str | None = None
    """What the options start from: one of those listed above. Left out, it is the one that suits data and network."""

    data_dir: Path | None = field(default=None, metadata=RUN)
    """Where TFDS keeps prepared data sets."""
    image_size: int | None = None
    """Pixels of a side that images are brought to. Left out, they stay as they are if they are all of one size."""
    test_image_size: int | None = None
    """Pixels of a side in evaluation; left out, as in training."""
    test_crop: float | None = None
    """Share of a test image's shorter side that is cut out of its centre, where images have to be resized."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel of the images, of pixels from 0 to 1. Left out, that of the weights, else of the data."""
    std: tuple[float, ...] | None = None
    """Deviation of each channel, that images are divided by."""
    weights: str | None = None
    """Weights to start from: a run's folder (averaged ones first), hf://OWNER/NAME, or a file of safetensors, PyTorch,
    .npz, Keras or Flax, under our names or those of torchvision, timm and others."""
    num_classes: int | None = None
    """Classes of the data. If this is given and the weights have another number, the classifier is drawn anew."""
    new_head: bool = False
    """Draw the classifier anew whatever classes the weights have."""

    epochs: int | None = None
    """Passes over the train part."""
    steps: int | None = None
    """Steps to train for, instead of epochs."""
    batch_size: int | None = None
    """Images a step, on all devices together."""
    accumulate: int | None = None
    """Pieces that a batch is cut into; a step adds up their gradients, and BatchNorm sees them one by one."""

    augment: tuple[str, ...] | None = None
    """Changes of train images: affine, pad-crop, flip, random-resized-crop, colour, rand-augment (:AMOUNT); or none."""
    mixup: float | None = None
    """Parameter of mixup's Beta distribution; 0 is no mixup."""
    cutmix: float | None = None
    """Parameter of CutMix's Beta distribution; 0 is no CutMix."""
    augment_until: float | None = None
    """Share of the training in which images are changed and mixed; after it they are seen as they are (He et al.,
    arXiv:1909.09148), which brings BatchNorm's statistics to what is tested. 1 is to the end."""
    label_smoothing: float | None = None
    """Share of each target that is spread evenly over all classes."""
    loss: str | None = None
    """softmax (cross-entropy over classes) or binary (cross-entropy of each class on its own)."""

    optimiser: str | None = None
    """sgd, lamb or adamw."""
    lr: float | None = None
    """Peak learning rate."""
    lr_scaling: str | None = None
    """none, or linear: the peak rate is lr · batch_size / 256 (Goyal et al., arXiv:1706.02677)."""
    momentum: float | None = None
    """Momentum of sgd."""
    nesterov: bool | None = None
    """Nesterov's form of it."""
    weight_decay: float | None = None
    """Weight decay."""
    decay: str | None = None
    """What decays: all parameters, or kernels alone and not biases and BatchNorm."""
    schedule: str | None = None
    """constant; step, which divides the rate by ten at each of decay_at; or cosine, half a period down to 0."""
    decay_at: tuple[float, ...] | None = None
    """Shares of the training at which the step schedule divides the rate."""
    warmup: float | None = None
    """Share of the training that warms up."""
    warmup_lr: float | None = None
    """The rate that warm-up starts from; it rises linearly to the peak."""
    warmup_shape: str | None = None
    """linear, or constant: warmup_lr all the while."""
    clip_norm: float | None = None
    """Largest norm of the gradient; 0 is no limit."""
    ema: float | None = None
    """Share of the averaged weights that stays at each step; they are evaluated too. 0 is no average."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, and the statistics beside them: patterns such as "conv1/*" or "layer1_*"."""

    stem: str | None = field(default=None, metadata=MODEL)
    """Stem of the network: imagenet or cifar."""
    shortcut: str | None = field(default=None, metadata=MODEL)
    """Shortcuts of a ResNet: A, B or C."""
    bottleneck_stride: str | None = field(default=None, metadata=MODEL)
    """Where bottleneck blocks take their stride: v1.5 (torchvision) or v1 (He 2015, Keras)."""
    padding: str | None = field(default=None, metadata=MODEL)
    """Padding of strided convolutions of a ResNet: torch, or same (Flax's ImageNet example)."""
    width: int | None = field(default=None, metadata=MODEL)
    """Channels of the first stage of a ResNet or VGG."""
    growth_rate: int | None = field(default=None, metadata=MODEL)
    """Channels that each layer of a DenseNet adds."""
    zero_init: bool | None = field(default=None, metadata=MODEL)
    """Start each residual block as its shortcut."""
    dropout: float | None = field(default=None, metadata=MODEL)
    """Dropout of a DenseNet or VGG."""
    drop_path: float | None = field(default=None, metadata=MODEL)
    """Stochastic depth of a ResNet."""
    remat: bool | None = field(default=None, metadata=MODEL)
    """Run blocks again in the backward pass rather than keep their inner values: less memory, more time."""
    frozen_batch_norm: bool | None = field(default=None, metadata=MODEL)
    """Running statistics normalise in training too, and stay as they are."""

    dtype: str = "float32"
    """Compute type: float32, bfloat16, float16 (loss scaling) or float64. Parameters stay float32 at least."""
    batch_norm: str = "global"
    """global: statistics over the whole batch; local: over each device's part."""
    max_skipped: int = 20
    """Steps in a row that may be skipped, for numbers that are infinite or none, before the run stops."""
    seed: int = 0
    """Seed of the initial parameters, of the data's order and of all random changes."""

    parallel: str = field(default="jit", metadata=RUN)
    """jit (one program over sharded arrays) or pmap (one a device)."""
    shard_state: bool = field(default=False, metadata=RUN)
    """Spread the optimiser's state and the averaged weights over the devices."""
    workers: int | None = field(default=None, metadata=RUN)
    """Threads that decode images beside the step; left out, one for each core."""
    checkpoint_minutes: float = field(default=10.0, metadata=RUN)
    """Minutes between checkpoints; there is one after every epoch as well."""
    tensorboard: bool = field(default=False, metadata=RUN)
    """Write metrics for TensorBoard too."""
    wandb: str | None = field(default=None, metadata=RUN)
    """Project of Weights & Biases to write metrics to."""
    profile: bool = field(default=False, metadata=RUN)
    """Write a trace of a few steps to the run's folder."""
    out: Path | None = field(default=None, metadata=RUN)
    """Folder of the run; one that is there already goes on where it stopped. Left out, a new folder under runs/."""


def reaching(what: dict[str, str]) -> tuple[str, ...]:
    """Names of the options that reach `what`: MODEL or RUN."""
    return tuple(option.name for option in fields(TrainConfig) if option.metadata == what)


def build_network(config: TrainConfig, num_classes: int) -> nn.Module:
    """The network that a config names, with the options that reach it.

    Raises:
        ValueError: as `build_model`.
    """
    options: dict[str, Any] = {name: getattr(config, name) for name in reaching(MODEL)}
    options = {name: value for name, value in options.items() if value is not None}
    if config.dtype == "float64":
        options["param_dtype"] = jnp.float64
    return build_model(config.arch, num_classes=num_classes, dtype=DTYPES[config.dtype], **options)


def check(config: TrainConfig) -> None:
    """Raises ValueError, which names the value and what is allowed, where a given option cannot be."""
    if (config.mean is None) != (config.std is None):
        raise ValueError(f"give mean and std, or neither; given mean={config.mean} and std={config.std}")
    if config.new_head and config.weights is None:
        raise ValueError("new_head is for weights to start from; none are given")
    if config.epochs is not None and config.steps is not None:
        raise ValueError(f"give epochs or steps, not both; given epochs={config.epochs} and steps={config.steps}")
    for name, check_value in CHECKS.items():
        value = getattr(config, name)
        if value is not None:
            check_value(name, value)


def _among(allowed: Any, what: str | None = None) -> Callable[[str, Any], None]:
    return lambda name, value: one_of(what or name, value, allowed)


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite; given {value!r}")


def _not_negative(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be at least 0 and finite; given {value!r}")


def _finite(name: str, value: tuple[float, ...]) -> None:
    if not all(-float("inf") < number < float("inf") for number in value):
        raise ValueError(f"{name} must be finite; given {value!r}")


def _all_positive(name: str, value: tuple[float, ...]) -> None:
    for number in value:
        _positive(name, number)


def _seed(name: str, value: int) -> None:
    if not 0 <= value < 2**32:
        raise ValueError(f"seed must be from 0 to 4294967295; given {value!r}")


def _data(name: str, value: str) -> None:
    one_of("data set", value.partition(":")[0], DATASETS)


def _augment(name: str, value: tuple[str, ...]) -> None:
    parse_augmentations(value)


def _rising_shares(name: str, value: tuple[float, ...]) -> None:
    if not all(0 < share < 1 for share in value) or list(value) != sorted(set(value)):
        raise ValueError(f"{name} must be rising shares over 0 and under 1; given {value!r}")


def _share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be over 0 and at most 1; given {value!r}")


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "arch": _among(ARCHS),
    "data": _data,
    **dict.fromkeys(("image_size", "test_image_size", "epochs", "steps", "batch_size"), check_positive),
    **dict.fromkeys(("accumulate", "num_classes"), check_positive),
    **dict.fromkeys(("max_skipped", "workers"), check_positive),
    **dict.fromkeys(("lr", "checkpoint_minutes"), _positive),
    **dict.fromkeys(("mixup", "cutmix", "weight_decay", "warmup_lr", "clip_norm"), _not_negative),
    **dict.fromkeys(("momentum", "label_smoothing", "warmup", "ema"), check_rate),
    **dict.fromkeys(("test_crop", "augment_until"), _share),
    "mean": _finite,
    "std": _all_positive,
    "augment": _augment,
    "decay_at": _rising_shares,
    "loss": _among(("softmax", "binary")),
    "optimiser": _among(OPTIMISERS),
    "lr_scaling": _among(("none", "linear")),
    "decay": _among(("all", "kernels")),
    "schedule": _among(SCHEDULES),
    "warmup_shape": _among(("linear", "constant")),
    "dtype": _among(DTYPES),
    "batch_norm": _among(("global", "local")),
    "parallel": _among(("jit", "pmap")),
    "seed": _seed,
}
