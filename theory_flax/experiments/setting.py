"""The training of plain and residual networks that are compared: in minutes, or as in He 2015."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from theory_flax.base.options import Options
from theory_flax.experiments.networks import data_name
from theory_flax.experiments.training import Moment, make_training
from training_flax import Dataset, Split, augment_images, build_model, normalise, parse_augmentations

PLAIN, RESIDUAL = ("plain20", "plain56"), ("resnet20", "resnet56")


@dataclass(frozen=True)
class Setting:
    """The training of all networks that are compared.

    Attributes:
        data: name of the data set.
        width: channels of the first stage.
        every: the networks see every n-th pixel along both axes.
        augment: random changes of the training images.
        steps, batch_size: of SGD with momentum 0.9 and weight decay 1e-4.
        window: number of steps whose means are noted.
        decay_at: steps at which the learning rate is divided by ten.
    """

    data: str
    width: int
    every: int
    augment: tuple[str, ...]
    steps: int
    batch_size: int
    window: int
    decay_at: tuple[int, ...] = ()


def setting_of(options: Options) -> Setting:
    """The quick setting, which takes minutes on two cores, or that of He 2015, section 4.2."""
    if options.quick:
        return Setting(data_name(options), width=8, every=4, augment=(), steps=160, batch_size=64, window=8)
    return Setting(data_name(options), 16, 1, ("pad-crop:4", "flip"), 64_000, 128, 500, (32_000, 48_000))


def training_on(dataset: Dataset, name: str, setting: Setting) -> tuple[Any, Callable[..., Iterator[Moment]]]:
    """Makes a network for a data set, and its training in a setting, see `make_training`.

    Raises:
        ValueError: the data set does not fit into memory.
    """
    part = dataset.train
    if not isinstance(part, Split):
        raise ValueError(f"networks are trained on data sets of at most 1 GiB here; {dataset.name!r} has more")
    model = build_model(name, num_classes=len(dataset.class_names), width=setting.width)
    augmentations = parse_augmentations(setting.augment or ("none",))

    def show(key: jax.Array, images: jax.Array) -> jax.Array:
        images = augment_images(augmentations, jax.random.split(key, len(images)), images)
        return normalise(images, dataset.mean, dataset.std)

    images, labels = jnp.asarray(part.images[:, :: setting.every, :: setting.every]), jnp.asarray(part.labels)
    return model, make_training(model, images, labels, batch_size=setting.batch_size, show=show)


def learning_rate_in(setting: Setting, first: float) -> Callable[[int], float]:
    """Returns the schedule of a training: the learning rate of each step, from `first` on."""
    return lambda step: first / 10 ** sum(step >= at for at in setting.decay_at)
