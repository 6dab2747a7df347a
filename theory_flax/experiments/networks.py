"""Networks and images that the claims are shown on: a run's, or fresh ones on the data set that is named."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from theory_flax.base.options import Options
from training_flax import Dataset, Split, build_model, normalise, open_dataset, restore
from training_flax.run.comparison import read_run


class Network(NamedTuple):
    """A network with its variables."""

    name: str
    model: nn.Module
    variables: Any


def of_run(run: Path) -> Network:
    """The network of a training run, by its newest checkpoint. Raises ValueError, one line, where there is none."""
    model, variables = restore(run)
    return Network(read_run(run).options["arch"], model, variables)


def dataset_of(options: Options) -> Dataset:
    """The data set of the run, or the one that is named."""
    if options.run is None:
        return open_dataset(options.data, data_dir=options.data_dir)
    kept = read_run(options.run).options
    return open_dataset(kept["data"], data_dir=kept.get("data_dir"), image_size=kept.get("image_size"))


def fresh(arch: str, dataset: Dataset, seed: int = 0, **options: Any) -> Network:
    """A network of `arch` as it is initialised, for the images and classes of a data set."""
    model = build_model(arch, num_classes=len(dataset.class_names), **options)
    image = jnp.zeros((1, *dataset.image_shape), jnp.float32)
    return Network(arch, model, model.init(jax.random.key(seed), image, train=False))


def images_of(dataset: Dataset, count: int, *, test: bool = False, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """`count` images, drawn without repetition and normalised (count, height, width, channels), and their labels."""
    part = dataset.test if test else dataset.train
    chosen = np.random.default_rng(seed).permutation(len(part.labels))[:count]
    if isinstance(part, Split):
        pixels = part.images[chosen]
    else:
        from training_flax.data.decode import centre_crop

        pixels = np.stack([centre_crop(part.read(int(i)), part.image_shape[0], 1.0) for i in chosen])
    return normalise(jnp.asarray(pixels), dataset.mean, dataset.std), jnp.asarray(part.labels[chosen])
