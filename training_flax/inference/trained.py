"""A trained network, and what a run or a file of weights says of it: classes, normalisation, size of images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from training_flax.config.config import DTYPES
from training_flax.data.source import MEMORY_LIMIT
from training_flax.inference.transform import CROP
from training_flax.run.checkpoints import restore
from weights_flax import build_model, load_model


@dataclass(frozen=True)
class Trained:
    """A network, its variables, and what is said of it; None is what nothing says.

    Attributes:
        model: the network.
        variables: {"params", "batch_stats"}.
        class_names: one for each class.
        mean, std: what pixels from 0 to 1 are normalised with, channel by channel.
        size: (height, width) of the images in tests.
        crop: share of a test image's shorter side that is kept, where it is resized.
        keep: images that have the size already are not resized.
    """

    model: nn.Module
    variables: dict[str, Any]
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    crop: float = CROP
    keep: bool = True


def read_config(run: Path) -> dict[str, Any]:
    """What config.json of a run says.

    Raises:
        ValueError: there is no run, or the file is damaged.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(f"{str(run)!r} is no run: it has no config.json")
    try:
        config = json.loads(path.read_text())
    except ValueError:
        config = None
    if not isinstance(config, dict) or config.get("dtype") not in DTYPES:
        raise ValueError(f"{str(path)!r} is damaged")
    return config


def read_run(run: Path, dtype: str | None = None) -> Trained:
    """The network of a run, finished or not: its averaged weights where there are any.

    Args:
        run: the run's folder.
        dtype: the compute type; None is the run's own. float64 needs JAX's x64.

    Raises:
        ValueError: there is no run, it has no weights yet, or one of its files is damaged.
    """
    config = read_config(run)
    try:
        options = {name: value for name, value in config["model"].items() if value is not None}
        options |= {"arch": config["arch"], "num_classes": config["num_classes"]}
        said = {**_said(config), "crop": float(config["test_crop"])}
        test_size, shape = config["test_image_size"], config["image_shape"]
        said |= {"size": (test_size, test_size)} if test_size else {}
        # More pixels than stay in memory were streamed, and the run resized each image.
        pixels = max(config["train_examples"], config["test_examples"]) * prod(shape)
        said["keep"] = not test_size and pixels <= MEMORY_LIMIT
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"{str(run / 'config.json')!r} is damaged") from None
    options |= _types(dtype or config["dtype"])
    if (run / "model.safetensors").is_file():
        model, variables, _ = load_model(run, **options)
    else:
        model = build_model(**options)
        variables = restore(run, averaged=bool(config.get("ema")))[1]
    return Trained(model, variables, **said)


def read_weights(source: str, arch: str | None = None, dtype: str | None = None) -> Trained:
    """The network of a file of weights.

    Args:
        source, arch: as `load_model` takes them.
        dtype: the compute type; None is float32.

    Raises:
        ValueError: as `load_model`, or what the file says of its classes or normalisation makes no sense.
    """
    loaded = load_model(source, arch, **_types(dtype or "float32"))
    try:
        return Trained(loaded.model, loaded.variables, **_said(loaded.card))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"weights {source!r} have a damaged card") from None


def _types(dtype: str) -> dict[str, Any]:
    return {"dtype": DTYPES[dtype], **({"param_dtype": jnp.float64} if dtype == "float64" else {})}


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    """Class names, normalisation and size of images, as a run's config and a file's card both tell them."""
    names, moments = values.get("class_names"), values.get("normalisation") or {"mean": None, "std": None}
    mean, std = (
        None if numbers is None else tuple(map(float, numbers)) for numbers in (moments["mean"], moments["std"])
    )
    if names is not None and len(names) != values["num_classes"]:
        raise ValueError
    said: dict[str, Any] = {"class_names": None if names is None else tuple(map(str, names)), "mean": mean, "std": std}
    if shape := values.get("image_shape"):
        said["size"] = (int(shape[0]), int(shape[1]))
    return said
