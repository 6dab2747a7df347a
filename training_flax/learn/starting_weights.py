"""What a run takes from the weights that it starts from: their values, and how their images were normalised."""

import json
from typing import Any

from flax import linen as nn

from training_flax.config.config import TrainConfig
from weights_flax import load_weights, read_card

HINT = "new_head=True draws the classifier anew"  # how the library says it
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def starting_weights(config: TrainConfig, model: nn.Module) -> dict[str, Any]:
    """The variables of `model` out of `config.weights`, with a new head where the config asks for one.

    Raises:
        ValueError: as `load_weights`.
    """
    assert config.weights is not None
    try:
        return load_weights(model, config.weights, new_head=config.new_head, seed=config.seed)
    except ValueError as error:
        if HINT not in str(error):
            raise
        if config.num_classes is None:
            ours = f"--num-classes {getattr(model, 'num_classes')} draws the classifier anew"  # noqa: B009
            raise ValueError(str(error).replace(HINT, ours)) from None
    return load_weights(model, config.weights, new_head=True, seed=config.seed)


def normalisation(config: TrainConfig, channels: int) -> Normalisation | None:
    """Mean and std that images shall be normalised with: as given, else as those of the weights; None is the data's.

    A run that goes on keeps its own, since the weights it started from may be gone.

    Raises:
        ValueError: they do not fit the channels, or the weights cannot be read.
    """
    if config.mean is not None and config.std is not None:
        found = {"mean": config.mean, "std": config.std}
    elif config.weights is None:
        return None
    elif config.out is not None and (config.out / "config.json").is_file():
        try:
            found = json.loads((config.out / "config.json").read_text())["normalisation"]
        except (ValueError, TypeError, KeyError):
            return None  # a damaged one is told of later
    else:
        found = read_card(config.weights).get("normalisation") or {}
    mean, std = tuple(found.get("mean", ())), tuple(found.get("std", ()))
    if not mean and not std:
        return None
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"mean and std must have a number for each of {channels} channels; given {mean} and {std}")
    return mean, std
