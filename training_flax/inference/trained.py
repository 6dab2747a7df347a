"""Trained networks from runs and from files of weights, with their classes, normalisation and size of images."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from training_flax.config.config import DTYPES, MODEL, reaching
from training_flax.config.run_config import read_run_config
from training_flax.data.built_in import preparation_of
from training_flax.data.source import MEMORY_LIMIT
from training_flax.inference.likeness import Likeness, read_likeness
from training_flax.inference.transform import CROP
from weights_flax import load_model
from weights_flax.formats.run import origin


@dataclass(frozen=True)
class Trained:
    """A network, its variables and its metadata; a value that the source lacks is None.

    Attributes:
        model: the network.
        variables: {"params", "batch_stats"}.
        class_names: one for each class.
        mean, std: the normalisation of pixels from 0 to 1, channel by channel.
        size: (height, width) of the images in tests.
        crop: share of a test image's shorter side that the centre crop keeps.
        keep: images that have the size already are neither cropped nor resized.
        interpolation, crop_rule: of the centre crop.
        preparation: of photos, see `View`.
        likeness: what the training images are like.
        origin: the weights that were taken, such as "averaged weights after step 45".
        multi_label: an image may have several classes, each with a probability of its own.
    """

    model: nn.Module
    variables: dict[str, Any]
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    crop: float = CROP
    keep: bool = True
    interpolation: str = "bilinear"
    crop_rule: str = "torchvision"
    preparation: str = "none"
    likeness: Likeness | None = None
    origin: str | None = None
    multi_label: bool = False


def network_of_run(run: Path, dtype: str, which: str | None = None) -> Trained:
    """Reads the network of a run, finished or not.

    Args:
        run: the run's folder.
        dtype: the compute type, one of `DTYPES`; float64 needs JAX's x64.
        which: "best", "averaged" or "last" weights; None takes the first of these that the run has.

    Raises:
        ValueError: there is no run, it has no such weights, or one of its files is damaged.
    """
    config = read_run_config(run)
    chosen = config.options
    # A data set with more pixels than fit into memory was streamed, and then the run resized each image.
    pixels = max(config.train_examples, config.test_examples) * prod(config.image_shape)
    side = chosen.test_image_size
    about: dict[str, Any] = {
        "class_names": config.class_names,
        "mean": config.mean if config.pixels else None,  # else only the user knows how his values were normalised
        "std": config.std if config.pixels else None,
        "size": (side, side) if side else config.image_shape[:2],
        "crop": chosen.test_crop,
        "keep": not side and (pixels <= MEMORY_LIMIT or chosen.data in ("arrays", "batches")),
        "interpolation": chosen.interpolation,
        "crop_rule": chosen.test_crop_rule,
        "preparation": preparation_of(chosen.data),
        "multi_label": config.multi_label,
    }
    network = {name: value for name in reaching(MODEL) if (value := getattr(chosen, name)) is not None}
    options = network | {"arch": chosen.arch, "num_classes": config.num_classes} | types_of(dtype)
    model, variables, card = load_model(run, which=which, **options)
    about["likeness"] = _likeness(card)
    return Trained(model, variables, **about, origin=origin(card))


def network_of_weights(
    source: str, arch: str | None, dtype: str, which: str | None = None, ignore_unused: bool = False
) -> Trained:
    """Reads the network of a file of weights; arguments and errors as `load_model`, and dtype as `network_of_run`.

    Also raises ValueError if the file's classes or normalisation make no sense.
    """
    loaded = load_model(source, arch, which=which, ignore_unused=ignore_unused, **types_of(dtype))
    try:
        return Trained(loaded.model, loaded.variables, **_metadata(loaded.card), origin=origin(loaded.card))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"weights {source!r} have a damaged card") from None


def types_of(dtype: str) -> dict[str, Any]:
    """Returns the options of a network for a compute type, one of `DTYPES`."""
    return {"dtype": DTYPES[dtype], **({"param_dtype": jnp.float64} if dtype == "float64" else {})}


def _metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Reads class names, normalisation and pre-processing of images from the card of a file of weights."""
    names, moments = values.get("class_names"), values.get("normalisation") or {"mean": None, "std": None}
    mean, std = (None if moments[name] is None else tuple(map(float, moments[name])) for name in ("mean", "std"))
    if names is not None and len(names) != values["num_classes"]:
        raise ValueError
    metadata: dict[str, Any] = {"mean": mean, "std": std, "multi_label": bool(values.get("multi_label"))}
    metadata["class_names"] = None if names is None else tuple(map(str, names))
    if shape := values.get("image_shape"):
        metadata["size"] = (int(shape[0]), int(shape[1]))
    if about := values.get("preprocessing"):
        metadata |= {name: str(about[name]) for name in ("interpolation", "crop_rule", "preparation") if name in about}
        metadata |= {"crop": float(about["crop"])} if "crop" in about else {}
        # Published networks crop images of any size; those of runs, images that their runs resized.
        metadata["keep"] = bool(about.get("keep", "run" in values))
    return metadata | {"likeness": _likeness(values)}


def _likeness(card: Mapping[str, Any]) -> Likeness | None:
    entry = card.get("training_images")
    return None if entry is None else read_likeness(entry)
