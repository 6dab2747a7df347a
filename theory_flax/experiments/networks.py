"""Networks and images that claims are measured on: those of a run, or new networks on the data set of the options."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from theory_flax.base.options import Options
from training_flax import Dataset, Split, TrainConfig, evaluate, normalise, open_dataset, restore
from training_flax.config.run_config import read_run_config
from training_flax.run.plan import images_of_run


class NamedNetwork(NamedTuple):
    """A network with its variables."""

    name: str
    model: nn.Module
    variables: Any


def of_run(run: Path, which: str | None) -> NamedNetwork:
    """Loads the network of a training run with the weights that `restore` takes; raises as `restore`."""
    model, variables = restore(run, which=which)
    return NamedNetwork(read_run_config(run).options.arch, model, variables)


def data_name(options: Options) -> str:
    """Returns the name of the data set: that of the run, or the one that the options name, or digits."""
    if options.run is not None:
        return read_run_config(options.run).options.data
    return options.data or "digits"


def dataset_of(options: Options) -> Dataset:
    """Opens the data set of the run, which its network has seen, or the one that the options name, or digits.

    Raises:
        ValueError: as `open_dataset`; the options name other data than the run's, or an image may have several classes.
    """
    if options.run is None:
        dataset = open_dataset(data_name(options), data_dir=options.data_dir)
    else:
        try:
            dataset = images_of_run(TrainConfig(out=options.run, data=options.data, data_dir=options.data_dir))[1]
        except ValueError as error:
            raise ValueError(re.sub("^out ", "run ", str(error))) from None
    if dataset.multi_label:
        raise ValueError(f"claims are measured on images of one class each; those of {dataset.name} may have several")
    return dataset


def init_for(dataset: Dataset, model: nn.Module, seed: int = 0) -> Any:
    """Draws the variables of a network for the images of a data set."""
    return model.init(jax.random.key(seed), jnp.zeros((1, *dataset.image_shape), jnp.float32), train=False)


def some(part: Any, count: int, seed: int = 0) -> Split:
    """Draws at most `count` examples of a part in memory, or of a streamed one, without repetition."""
    chosen = np.random.default_rng(seed).permutation(len(part.labels))[:count]
    if isinstance(part, Split):
        return Split(part.images[chosen], part.labels[chosen])
    from training_flax.data.decode import centre_crop

    images = [centre_crop(part.read(int(i)), part.image_shape[0], 1.0) for i in chosen]
    return Split(np.stack(images), part.labels[chosen])


def images_of(dataset: Dataset, count: int, *, test: bool = False, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Draws images as `some` does: normalised, (count, height, width, channels), and their labels."""
    part = some(dataset.test if test else dataset.train, count, seed)
    return normalise(jnp.asarray(part.images), dataset.mean, dataset.std), jnp.asarray(part.labels)


def error_on(part: Split, model: nn.Module, variables: Any, dataset: Dataset) -> float:
    """The share of a part's images that a network, with running statistics, classifies wrong."""
    predictions = evaluate(model, variables, replace(dataset, test=part), 500).predictions
    return float((predictions != part.labels).mean())
