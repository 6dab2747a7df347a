"""Pre-processing of images that files beside the weights name: those of timm and of transformers.

It becomes entries of the card: "normalisation", "image_shape", and "preprocessing" with "interpolation", "crop", the
share of the shorter side that the centre crop keeps, and "crop_rule", whose roundings are in
`training_flax.data.decode.centre_crop`.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from common_flax.json_input import read_object
from weights_flax.formats.open import WeightsFile

RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def described(file: WeightsFile) -> WeightsFile:
    """Returns a file of weights whose card tells the pre-processing too, if a file beside it names one."""
    return replace(file, card={**beside(file.path), **file.card})


def beside(path: Path) -> dict[str, Any]:
    """Returns the entries of the card that config.json or preprocessor_config.json beside a file of weights give."""
    for name, read in (("config.json", of_timm), ("preprocessor_config.json", of_transformers)):
        with suppress(
            OSError, ValueError, TypeError, LookupError, ArithmeticError
        ):  # the files of others may say anything
            if found := read(read_object(path.parent / name)):
                return found
    return {}


def of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads timm's config.json; empty if it is of another library."""
    values = config.get("pretrained_cfg", config)
    if "crop_pct" not in values:
        return {}
    channels, height, width = values["input_size"]
    centre = values.get("crop_mode", "center") == "center"
    return (
        _card(
            (height, width, channels),
            values.get("mean"),
            values.get("std"),
            values.get("interpolation"),
            values["crop_pct"],
        )
        if centre
        else {}
    )


def of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the preprocessor_config.json of a ConvNextImageProcessor, which ResNets use; empty for others."""
    if not config.get("do_resize", True) or "crop_pct" not in config:
        return {}
    size = config["size"]
    side = size["shortest_edge"] if isinstance(size, Mapping) else size
    # Above 384 pixels the processor resizes to a square and crops nothing.
    return (
        _card(
            (side, side, 3),
            config.get("image_mean"),
            config.get("image_std"),
            RESAMPLE.get(config.get("resample", 3)),
            config["crop_pct"],
        )
        if side < 384
        else {}
    )


def _card(shape: tuple[int, int, int], mean: Any, std: Any, interpolation: Any, crop: Any) -> dict[str, Any]:
    """Makes the entries of the card; raises an error for values that make no sense."""
    about: dict[str, Any] = {"crop": float(crop), "crop_rule": "timm"}
    if not 0 < about["crop"] <= 1:
        raise ValueError
    if interpolation in RESAMPLE.values():
        about["interpolation"] = interpolation
    card: dict[str, Any] = {"preprocessing": about}
    if shape[0] == shape[1]:
        card["image_shape"] = [int(side) for side in shape]
    if mean is not None and std is not None:
        card["normalisation"] = {"mean": [float(value) for value in mean], "std": [float(value) for value in std]}
    return card
