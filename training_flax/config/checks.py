"""Checks of the values that options of a training run have."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from math import inf
from operator import lt
from typing import Any

from common_flax.checks import check_positive, check_rate, one_of
from training_flax.augment.registry import parse_augmentations
from training_flax.config.config import DTYPES, TrainConfig
from training_flax.config.optimizers import OPTIMIZERS
from training_flax.data.decode import CROP_RULES, INTERPOLATIONS
from training_flax.data.loader import SAMPLINGS
from training_flax.data.open import check_data
from weights_flax.formats.run import WHICH
from weights_flax.io.archs import ARCHS


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


def check_class_weights(name: str, value: Any) -> None:
    """Raises ValueError unless the weights are "balanced", or finite and not negative, one of them over 0."""
    numbers = not isinstance(value, str) and all(0 <= number < inf for number in value) and any(value)
    if value != "balanced" and not numbers:
        raise ValueError(f"{name} must be balanced, or finite numbers of at least 0, not all 0; given {value!r}")


CHECKS: dict[str, Callable[[str, Any], object]] = {
    "arch": partial(one_of, allowed=ARCHS),
    "data": lambda name, value: check_data("data set", value),
    **dict.fromkeys(("image_size", "test_image_size", "epochs", "steps", "batch_size"), check_positive),
    **dict.fromkeys(("accumulate", "num_classes", "max_skipped", "workers", "patience"), check_positive),
    **dict.fromkeys(("lr", "checkpoint_minutes"), _positive),
    **dict.fromkeys(("mixup", "cutmix", "weight_decay", "warmup_lr", "clip_norm"), _not_negative),
    **dict.fromkeys(("momentum", "label_smoothing", "warmup", "ema"), check_rate),
    **dict.fromkeys(("batch_norm_decay", "validation_share"), check_rate),
    "test_share": _must_be("over 0 and under 1", lambda share: 0 < share < 1),
    **dict.fromkeys(("test_crop", "augment_until", "layer_decay"), _share),
    "mean": _must_be("finite", lambda mean: all(-inf < number < inf for number in mean)),
    "std": lambda name, std: [_positive(name, number) for number in std],
    "which": partial(one_of, allowed=WHICH),
    "augment": lambda name, value: parse_augmentations(value),
    "decay_at": _must_be("rising shares over 0 and under 1", lambda given: all(map(lt, (0, *given), (*given, 1)))),
    "test_crop_rule": partial(one_of, allowed=CROP_RULES),
    "interpolation": partial(one_of, allowed=INTERPOLATIONS),
    "sampling": partial(one_of, allowed=SAMPLINGS),
    "class_weights": check_class_weights,
    "loss": partial(one_of, allowed=("softmax", "binary")),
    "optimizer": partial(one_of, allowed=OPTIMIZERS),
    "lr_scaling": partial(one_of, allowed=("none", "linear")),
    "decay": partial(one_of, allowed=("all", "kernels")),
    "schedule": partial(one_of, allowed=("constant", "step", "cosine", "whole-cosine")),
    "warmup_shape": partial(one_of, allowed=("linear", "constant")),
    "dtype": partial(one_of, allowed=DTYPES),
    "batch_norm": partial(one_of, allowed=("global", "local")),
    "reduce_dtype": partial(one_of, allowed=("float32", "bfloat16")),
    "parallel": partial(one_of, allowed=("jit", "pmap")),
    **dict.fromkeys(("seed", "split_seed"), _must_be("from 0 to 4294967295", lambda seed: 0 <= seed < 2**32)),
}
