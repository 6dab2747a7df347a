"""The weights that a run starts from: their values, and the normalisation of their images."""

from dataclasses import replace
from typing import Any, cast

from flax import linen as nn

from training_flax.config.checks import check_values
from training_flax.config.config import TrainConfig
from training_flax.config.recipes import RECIPES, suitable_recipe
from training_flax.config.run_config import is_run, read_config
from weights_flax import load_weights, read_card

HINT = "new_head=True draws the classifier anew"  # part of an error message of `load_weights`
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def starting_weights(config: TrainConfig, model: nn.Module) -> dict[str, Any]:
    """Loads the variables of `model` from `config.weights`, with a new head if needed; raises as `load_weights`."""
    source = cast(str, config.weights)
    chosen: dict[str, Any] = {"which": config.which, "seed": config.seed or 0}
    chosen["ignore_unused"] = bool(config.ignore_unused)
    try:
        return load_weights(model, source, new_head=bool(config.new_head), **chosen)
    except ValueError as error:
        if HINT not in str(error):
            raise
        if config.num_classes is None:
            ours = f"--num-classes {getattr(model, 'num_classes')} draws the classifier anew"  # noqa: B009
            raise ValueError(str(error).replace(HINT, ours)) from None
    return load_weights(model, source, new_head=True, **chosen)


def seen_as_before(config: TrainConfig) -> TrainConfig:
    """Returns the config with the crop and interpolation of its weights, where neither user nor recipe name others.

    A run that resumes reads them from its config.json. Raises ValueError if the weights cannot be read, or have values
    that no image can be seen with.
    """
    names = {"test_crop": "crop", "test_crop_rule": "crop_rule", "interpolation": "interpolation"}
    recipe = RECIPES[config.recipe or suitable_recipe(config)].config
    open_names = [name for name in names if getattr(config, name) is None and getattr(recipe, name) is None]
    if config.weights is None or not open_names:
        return config
    if config.out is not None and is_run(config.out):
        try:
            found = read_config(config.out)
        except ValueError:
            return config  # a damaged file raises its error later, when the run's folder is checked
    else:
        about = read_card(config.weights, which=config.which).get("preprocessing")
        about = about if isinstance(about, dict) else {}
        found = {name: about[key] for name, key in names.items() if key in about}
    chosen: dict[str, Any] = {name: found[name] for name in open_names if found.get(name) is not None}
    try:
        check_values(chosen)
    except (TypeError, ValueError):
        raise ValueError(f"weights {config.weights!r} have a damaged card: preprocessing") from None
    return replace(config, **chosen)


def normalisation(config: TrainConfig, channels: int) -> Normalisation | None:
    """Returns the images' mean and std from the config, or else from the weights; None if neither has them.

    A run that resumes reads them from its config.json, because the weights that it started from may no longer exist.
    Raises ValueError if mean and std do not fit the channels, or the weights cannot be read.
    """
    if config.mean is not None and config.std is not None:
        moments = {"mean": config.mean, "std": config.std}
    elif config.weights is None:
        return None
    elif config.out is not None and is_run(config.out):
        try:
            moments = read_config(config.out).get("normalisation") or {}
        except ValueError:
            return None  # a damaged file raises its error later, when the run's folder is checked
    else:
        moments = read_card(config.weights, which=config.which).get("normalisation") or {}
    mean, std = tuple(moments.get("mean", ())), tuple(moments.get("std", ()))
    if not mean and not std:
        return None
    if len(mean) != channels or len(std) != channels:
        given = "given" if config.mean is not None else f"those {moments_from(config)} are"
        raise ValueError(f"mean and std must have a number for each of {channels} channels; {given} {mean} and {std}")
    return mean, std


def moments_from(config: TrainConfig) -> str:
    """Returns the origin, in words, of the mean and std that `normalisation` finds."""
    if config.mean is not None:
        return "as given"
    return "as the run began" if config.out is not None and is_run(config.out) else f"of the weights {config.weights}"
