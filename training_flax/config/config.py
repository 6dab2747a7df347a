"""The options of a training run, typed."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from common_flax.renamed import renamed_keyword
from layers_flax import Network
from weights_flax.io.archs import build_model

if TYPE_CHECKING:
    AnyPath = str | Path
else:
    AnyPath = Path  # what the command line makes of a word

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16, "float64": jnp.float64}

# MODEL options go to the network's constructor under the same names. RUN options never change a run's numbers, so they
# may differ when the run resumes.
MODEL, RUN = {"reaches": "model"}, {"reaches": "run"}

OLD_NAMES = {"optimiser": "optimizer", "stem": "stem_type"}
"""Old names of options, and their new names; old names are read everywhere and written nowhere."""

OF_OPTIMIZER = (
    *("optimizer", "lr", "lr_scaling", "momentum", "nesterov", "weight_decay", "decay", "schedule", "decay_at"),
    *("warmup", "warmup_lr", "warmup_shape", "clip_norm"),
)
"""Options that do not apply where an optimizer of the user's is passed to `fit`."""

BEFORE = {"ema_warmup": False, "test_crop_rule": "centred", "validation_split": "none"}
"""Values of options in runs that began before there was the option, where they differ from the default of new runs."""


@dataclass(frozen=True)
class TrainConfig:
    """The options of a training run.

    Options that are None come from the run in `out`, where it exists, see `training_flax.config.of_run`; else from the
    recipe, see `with_recipe` and `RECIPES`; else from `ResolvedConfig`.
    """

    arch: str | None = None
    """Architecture; --help begins with a list. A run that exists knows its own."""
    data: str | None = None
    """Data set: "digits" (scikit-learn's, no download), "folder:PATH", "csv:FILE", "tfds:NAME[:VERSION]",
    "tfds:NAME:80%" or "fake:HEIGHTxWIDTHxCHANNELS:CLASSES". Left out, digits in a new run."""
    recipe: str | None = None
    """Recipe with defaults for the other options; --help begins with a list. Left out, data and network decide."""

    data_dir: AnyPath | None = field(default=None, metadata=RUN)
    """Folder of the data sets that TFDS has prepared."""
    train_split: str | None = None
    """Split to train on: of TFDS, as TFDS spells it, such as "train[:80%]"; or a folder in PATH. Left out, train."""
    test_split: str | None = None
    """Split to test on. Left out, test, or else validation, val and the like."""
    validation_split: str | None = None
    """Folder in PATH to choose the best weights on, or none. Left out, val, valid or validation beside a test part."""
    test_share: float | None = None
    """Share of each class that is held out for tests, of images without a test part. Left out, 0.2."""
    validation_share: float | None = None
    """Share of each class of the train part that is held out to choose the best weights on. Left out, 0."""
    split_seed: int | None = None
    """Seed of the images that are held out. Left out, seed."""
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
    """Weights to start from: a run's folder, a name such as timm:resnet50.a1_in1k (`python -m weights_flax list` prints
    all), hf://OWNER/NAME, or a file of safetensors, PyTorch, .npz, Keras or Flax, with our tensor names or those of
    torchvision, timm and others."""
    which: str | None = None
    """Weights of a run that is started from or evaluated: best, averaged or last. Left out, the first that it has."""
    num_classes: int | None = None
    """Number of classes of the data. If the weights have another number, the classifier starts from random values."""
    new_head: bool | None = None
    """Start the classifier from random values, whatever classes the weights have, and whatever its name."""
    ignore_unused: bool | None = None
    """Pass over entries of the weights' file beside the network; they are refused else."""

    epochs: int | None = None
    """Passes over the train split."""
    steps: int | None = None
    """Steps to train for, instead of epochs."""
    patience: int | None = None
    """Epochs in a row without a better validation accuracy (or mean average precision, where images may have several
    classes) after which the run ends early."""
    batch_size: int | None = None
    """Images per step, on all devices together."""
    sampling: str | None = None
    """shuffled: each train image once an epoch; balanced: each class equally often."""
    accumulate: int | None = None
    """Micro-batches per batch: a step adds up their gradients, and BatchNorm sees them one by one."""

    augment: tuple[str, ...] | None = None
    """Changes of train images, in this order: affine, pad-crop, flip, random-resized-crop, color, rand-augment,
    auto-augment, auto-augment-cifar10, trivial-augment, random-erasing, some with :AMOUNT behind the name; or none."""
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
    """softmax (cross-entropy over classes) or binary (cross-entropy of each class on its own). Left out, binary for
    images that may have several classes, whatever the recipe says."""

    class_weights: tuple[float, ...] | str | None = None
    """Weights of the classes in the loss: balanced, which makes up for classes with few images; or a number for each
    class."""

    optimizer: str | None = None
    """Optimizer of Optax: sgd, adam, adamw, nadamw, lion, rmsprop, lamb, lars, adafactor or one of eleven others."""
    lr: float | None = None
    """Peak learning rate."""
    lr_scaling: str | None = None
    """none, or linear: the peak learning rate is lr · batch_size / 256 (Goyal et al., arXiv:1706.02677)."""
    momentum: float | None = None
    """Momentum of sgd, rmsprop and lars; other optimizers have values of their own."""
    nesterov: bool | None = None
    """Nesterov's form of momentum."""
    layer_decay: float | None = None
    """Factor on the learning rate from the head to the last stage, from there to the stage before, down to the stem:
    for weights that are fine-tuned. 1 is one rate for all."""
    weight_decay: float | None = None
    """Weight decay: added to the gradient, or decoupled, as the optimizer has it."""
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
    batch_norm_decay: float | None = None
    """Decay of BatchNorm's running statistics at each step, 1 minus PyTorch's momentum. Left out, 0.9. Under a smaller
    one they follow the weights more closely, and come from fewer images."""
    freeze: tuple[str, ...] | None = None
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

    dtype: str | None = None
    """Compute type: float32, bfloat16, float16 (loss scaling) or float64. Parameters stay float32 at least. Left out,
    float32."""
    batch_norm: str | None = None
    """global: statistics over the whole batch; local: over each device's share of it. Left out, global."""
    reduce_dtype: str | None = None
    """Type in which devices add their gradients: float32, or bfloat16, in which they send half as much. Left out,
    float32."""
    max_skipped: int | None = None
    """Number of steps in a row, skipped because of infinite or NaN values, after which the run stops. Left out, 20."""
    seed: int | None = None
    """Seed of the initial parameters, of the order of the data and of all augmentation. Left out, 0."""

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
    out: AnyPath | None = field(default=None, metadata=RUN)
    """Folder of the run. A run that exists needs no other option, and continues where it stopped. Left out, a new
    folder under runs/."""


TrainConfig.__init__ = renamed_keyword(TrainConfig.__init__, **OLD_NAMES)  # type: ignore[method-assign]


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(TrainConfig):
    """The options of a run after `with_recipe`, with defaults for options that neither user nor recipe sets."""

    arch: str = field()  # without `field`, the default of `TrainConfig` would be that of this class too
    data: str = "digits"
    recipe: str = field()
    validation_share: float = 0.0
    test_crop: float = 0.875
    test_crop_rule: str = "torchvision"
    interpolation: str = "bilinear"
    new_head: bool = False
    ignore_unused: bool = False
    batch_size: int = field()
    sampling: str = "shuffled"
    accumulate: int = 1
    augment: tuple[str, ...] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    augment_until: float = 1.0
    label_smoothing: float = 0.0
    loss: str = "softmax"
    optimizer: str = "sgd"
    lr: float = field()
    lr_scaling: str = "none"
    momentum: float = 0.9
    nesterov: bool = False
    layer_decay: float = 1.0
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
    batch_norm_decay: float = 0.9
    freeze: tuple[str, ...] = ()
    dtype: str = "float32"
    batch_norm: str = "global"
    reduce_dtype: str = "float32"
    max_skipped: int = 20
    seed: int = 0


def reaching(purpose: dict[str, str]) -> tuple[str, ...]:
    """Returns the names of the options with this metadata: MODEL or RUN."""
    return tuple(option.name for option in fields(TrainConfig) if option.metadata == purpose)


def build_network(config: TrainConfig, num_classes: int) -> Network:
    """Builds the network of a config with its MODEL options; raises as `build_model`."""
    options: dict[str, Any] = {name: getattr(config, name) for name in reaching(MODEL)}
    options = {name: value for name, value in options.items() if value is not None}
    dtype = config.dtype or "float32"
    if dtype == "float64":
        options["param_dtype"] = jnp.float64
    return build_model(str(config.arch), num_classes=num_classes, dtype=DTYPES[dtype], **options)
