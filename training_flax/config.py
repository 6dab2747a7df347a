"""What a training run is made of, typed and checked."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp

from layers_flax import check_positive, check_rate, one_of
from training_flax.archs import ARCHS
from training_flax.augment import AUGMENTATIONS
from training_flax.data import DATASETS

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class TrainConfig:
    """The options of a training run.

    Optimised by SGD with Nesterov momentum; the rate rises linearly over the first tenth of the steps and falls by
    half a cosine over the rest (Loshchilov and Hutter, arXiv:1608.03983).
    """

    arch: str
    """Architecture: one of those listed above."""
    data: str = "digits"
    """Data set. "digits": scikit-learn's handwritten digits, which need no download."""
    epochs: int | None = None
    """Passes over the train part; None is 12 for digits."""
    steps: int | None = None
    """Steps to train for, instead of epochs."""
    batch_size: int | None = None
    """Images a step; None is 64 for digits."""
    lr: float | None = None
    """Peak learning rate; None is 0.05 for digits, and a tenth of it for networks without BatchNorm."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 5e-3
    """Weight decay of kernels; BatchNorm's parameters and biases have none."""
    augment: str = "affine"
    """Random change of the train images: affine (turn, slant, scale, shift) or none."""
    label_smoothing: float = 0.1
    """Share of each target that is spread evenly over all classes."""
    seed: int = 0
    """Seed of the initial parameters, of the data's order and of dropout."""
    dtype: str = "float32"
    """Compute type: float32 or bfloat16. Parameters, statistics and logits stay float32."""
    out: Path | None = None
    """Folder of the run, new or empty; None is a new folder under runs/."""


def check(config: TrainConfig) -> None:
    """Raises ValueError, which names the value and what is allowed, where an option cannot be."""
    one_of("arch", config.arch, ARCHS)
    one_of("data set", config.data, DATASETS)
    one_of("dtype", config.dtype, DTYPES)
    one_of("augment", config.augment, AUGMENTATIONS)
    if config.epochs is not None and config.steps is not None:
        raise ValueError(f"give epochs or steps, not both; given epochs={config.epochs} and steps={config.steps}")
    for name in ("epochs", "steps", "batch_size"):
        if getattr(config, name) is not None:
            check_positive(name, getattr(config, name))
    if config.lr is not None and not 0 < config.lr < float("inf"):
        raise ValueError(f"lr must be positive and finite; given {config.lr!r}")
    if not 0 <= config.weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be at least 0 and finite; given {config.weight_decay!r}")
    check_rate("momentum", config.momentum)
    check_rate("label_smoothing", config.label_smoothing)
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must be from 0 to 4294967295; given {config.seed!r}")


def with_defaults(config: TrainConfig, *, batch_norm: bool) -> TrainConfig:
    """`config` with what it left open filled in for its data set.

    Args:
        config: any.
        batch_norm: whether the network has BatchNorm; without it, the usual rate diverges.
    """
    return replace(
        config,
        epochs=config.epochs or (None if config.steps else 12),
        batch_size=config.batch_size or 64,
        lr=config.lr or (0.05 if batch_norm else 0.005),
    )
