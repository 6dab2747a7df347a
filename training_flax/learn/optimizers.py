"""The optimizer, learning-rate schedule and weight decay of a config, all from Optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from training_flax.config.config import ResolvedConfig, TrainConfig
from training_flax.config.optimizers import OPTIMIZERS
from training_flax.config.recipes import with_recipe
from training_flax.learn.layer_rates import scale_by_part


def peak_rate(config: TrainConfig) -> float:
    """Returns the learning rate after warm-up: lr, or lr · batch_size / 256 by linear scaling (Goyal 2017, 2.1)."""
    config = with_recipe(config)
    return config.lr * (config.batch_size / 256 if config.lr_scaling == "linear" else 1.0)


def learning_rate(config: TrainConfig, total_steps: int) -> optax.Schedule:
    """Returns the learning rate at each step, counted from 0, for a config and its recipe.

    The schedule begins with a warm-up from `warmup_lr`, linear or constant. Then the learning rate is constant, divided
    by ten at each share `decay_at` of the training, or half a cosine from the end of the warm-up down to 0 (Loshchilov
    and Hutter, arXiv:1608.03983). The "whole-cosine" begins with the training, and the warm-up stands in for its first
    part, as in timm. Under JAX's x64 learning rates are float64.
    """
    config = with_recipe(config)
    peak, warmup_steps = peak_rate(config), round(config.warmup * total_steps)
    if config.schedule == "whole-cosine":
        whole = optax.cosine_decay_schedule(peak, max(total_steps, 1))
        main = lambda step: whole(step + warmup_steps)  # noqa: E731
    elif config.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, max(total_steps - warmup_steps, 1))
    elif config.schedule == "step":
        # `join_schedules` counts steps from the end of the warm-up, `decay_at` from the start of the training.
        tenths = {max(round(share * total_steps) - warmup_steps, 0): 0.1 for share in config.decay_at}
        main = optax.piecewise_constant_schedule(peak, tenths)
    else:
        main = optax.constant_schedule(peak)
    if not warmup_steps:
        return _in_widest_type(main)
    end = peak if config.warmup_shape == "linear" else config.warmup_lr
    warm = optax.linear_schedule(config.warmup_lr, end, warmup_steps)
    return _in_widest_type(optax.join_schedules([warm, main], [warmup_steps]))


def _in_widest_type(schedule: optax.Schedule) -> optax.Schedule:
    """Returns the schedule with its steps counted in float64 under x64: a quotient of int32 is float32 there too."""

    def counted(count: Any) -> Any:
        wide = jnp.result_type(float) == jnp.float64
        return schedule(jnp.asarray(count, jnp.float64) if wide else count)

    return counted


def make_optimizer(
    config: TrainConfig, total_steps: int, rate: optax.Schedule | None = None
) -> optax.GradientTransformation:
    """Makes the optimizer of a config and its recipe; `rate` stands in for the learning rate of the config.

    SGD is PyTorch's: weight decay is added to the gradient, v ← m v + g, and the parameters change by -lr · v, or by
    -lr · (g + m v) in Nesterov's form. LAMB (You et al., arXiv:1904.00962) is timm's: parameters that do not decay get
    no trust ratio; so do those of LARS (You et al., arXiv:1708.03888). `OPTIMIZERS` tells of the others. With a
    `layer_decay` the rates fall from head to stem, see `factors_of`.
    """
    config, schedule = with_recipe(config), rate or learning_rate(config, total_steps)
    mask = kernels if config.decay == "kernels" else None
    optimizer = _optimizer(config, schedule, mask)
    if config.layer_decay != 1:
        optimizer = optax.chain(optimizer, scale_by_part(config, config.layer_decay))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer) if config.clip_norm else optimizer


def _optimizer(config: ResolvedConfig, schedule: optax.Schedule, mask: Any) -> optax.GradientTransformation:
    name, weight_decay = config.optimizer, config.weight_decay
    about, make = OPTIMIZERS[name], getattr(optax, config.optimizer)
    momentum: dict[str, Any] = {"nesterov": config.nesterov, "momentum": config.momentum or None}
    if name == "lars":
        momentum["momentum"] = config.momentum
        adapted = True if mask is None else mask
        return make(schedule, weight_decay, adapted, trust_ratio_mask=adapted, **momentum)
    if about.decay == "gradient":
        core = make(schedule, **momentum) if about.momentum else make(schedule)
        return optax.chain(optax.add_decayed_weights(weight_decay, mask), core)
    if name in _WITHOUT_DECAY:
        decay = optax.add_decayed_weights(weight_decay, mask)
        return optax.chain(_WITHOUT_DECAY[name](), decay, optax.scale_by_learning_rate(schedule))
    if name == "lamb":
        return _lamb(schedule, weight_decay, mask)
    return make(schedule, weight_decay=weight_decay, mask=mask)


# Of these Optax has no decoupled weight decay with a mask, so it is added behind them.
_WITHOUT_DECAY: dict[str, Callable[[], optax.GradientTransformation]] = {
    "novograd": optax.scale_by_novograd,
    "adafactor": lambda: optax.chain(optax.adafactor(), optax.scale(-1)),
}


def _lamb(schedule: optax.Schedule, weight_decay: float, mask: Any) -> optax.GradientTransformation:
    """Makes LAMB, of Optax's parts: `optax.lamb` gives each parameter a trust ratio, those that do not decay too."""
    trust = optax.scale_by_trust_ratio()
    return optax.chain(
        optax.scale_by_adam(eps=1e-6),
        optax.add_decayed_weights(weight_decay, mask),
        (optax.masked(trust, mask) if mask else trust) if weight_decay else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )


def kernels(params: Any) -> Any:
    """Returns a tree of bools like `params`: True for convolution and dense kernels, by their names."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: path[-1].key == "kernel", params)
