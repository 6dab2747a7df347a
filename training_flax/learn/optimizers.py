"""Optimiser, learning-rate schedule and what decays or stays frozen, from a config; all of it Optax's."""

from typing import Any

import jax
import optax

from training_flax.config.config import TrainConfig
from training_flax.config.recipes import with_recipe


def peak_rate(config: TrainConfig) -> float:
    """The learning rate after warm-up: `lr`, or by linear scaling lr · batch_size / 256 (Goyal 2017, section 2.1)."""
    config = with_recipe(config)
    assert config.lr is not None
    assert config.batch_size is not None
    return config.lr * (config.batch_size / 256 if config.lr_scaling == "linear" else 1.0)


def learning_rate(config: TrainConfig, total_steps: int) -> optax.Schedule:
    """The rate at each step, counted from 0, of a config and its recipe.

    Warm-up from `warmup_lr`, linear or constant; then constant, divided by ten at each share `decay_at` of the
    training, or half a cosine from the end of the warm-up down to 0 (Loshchilov and Hutter, arXiv:1608.03983).
    """
    config = with_recipe(config)
    assert config.warmup is not None
    assert config.warmup_lr is not None
    assert config.decay_at is not None
    peak, warmup_steps = peak_rate(config), round(config.warmup * total_steps)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, max(total_steps - warmup_steps, 1))
    elif config.schedule == "step":
        # Counted from the start of the training, not from the end of the warm-up.
        tenths = {max(round(share * total_steps) - warmup_steps, 0): 0.1 for share in config.decay_at}
        main = optax.piecewise_constant_schedule(peak, tenths)
    else:
        main = optax.constant_schedule(peak)
    if not warmup_steps:
        return main
    end = peak if config.warmup_shape == "linear" else config.warmup_lr
    warm = optax.linear_schedule(config.warmup_lr, end, warmup_steps)
    return optax.join_schedules([warm, main], [warmup_steps])


def make_optimiser(config: TrainConfig, total_steps: int) -> optax.GradientTransformation:
    """The optimiser of a config and its recipe.

    SGD is PyTorch's: the decay is added to the gradient, v ← m v + g, and the parameters move by -lr · v, or by
    -lr · (g + m v) in Nesterov's form.
    """
    config, rate = with_recipe(config), learning_rate(config, total_steps)
    mask = kernels if config.decay == "kernels" else None
    decay, momentum = config.weight_decay or 0.0, config.momentum or 0.0
    if config.optimiser == "sgd":
        optimiser = optax.chain(
            optax.add_decayed_weights(decay, mask),
            optax.sgd(rate, momentum or None, nesterov=bool(config.nesterov)),
        )
    else:
        make = {"lamb": optax.lamb, "adamw": optax.adamw}[config.optimiser or ""]
        optimiser = make(rate, weight_decay=decay, mask=mask)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimiser) if config.clip_norm else optimiser


def kernels(params: Any) -> Any:
    """True for convolution and dense kernels, False for biases and BatchNorm's parameters; by their names."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: path[-1].key == "kernel", params)
