"""The data that `fit` takes: arrays, a `Dataset`, or batches; made a `Dataset` that a run can tell from another."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from training_flax.config.config import TrainConfig
from training_flax.config.recipes import with_recipe
from training_flax.data.dataset import AnySplit, BatchedSplit, Dataset, Split, StreamedSplit
from training_flax.data.held_out import validation_of_labels
from training_flax.data.open import GIVEN
from training_flax.data.source import MEASURED, sum_of_labels
from training_flax.given.arrays import Pair, check_moments, from_arrays, moments_of, names_of_classes, sum_of_arrays
from training_flax.given.batches import Batches, Source, from_batches, is_pair

Data = Dataset | Batches | tuple[Pair, Pair] | tuple[Source, Source | Pair]
"""A `Dataset`; (train, test), each (images, labels) as arrays; or batches: `Batches`, or (train, test) iterables."""

# Options of `open_dataset`, for data that have a name.
OPENED = {
    **dict.fromkeys(("data_dir", "train_split", "test_split", "validation_split", "test_share")),
    "strict": False,
}


class GivenData(NamedTuple):
    """A data set that was passed to `fit`.

    Attributes:
        dataset: its name is the kind, one of `GIVEN`; of a `Dataset` "dataset:" and its own name.
        batch_size: the number of images in each batch of an iterable; None for other data.
    """

    dataset: Dataset
    batch_size: int | None = None


def open_given(data: Data, config: TrainConfig) -> GivenData:
    """Makes the data set of a run from what the user passed.

    Args:
        data: the user's data.
        config: the options; `num_classes`, `mean`, `std`, `dtype`, and those of the validation part count.

    Raises:
        ValueError: the data are of none of these kinds, wrong in themselves, or do not fit the options; one line.
    """
    if config.data is not None and config.data.partition(":")[0] not in GIVEN:
        raise ValueError(f"give data to fit, or name them in the config, not both; the config has {config.data!r}")
    for name, default in OPENED.items():
        if (value := getattr(config, name)) != default:
            raise ValueError(f"{name} is for data that are opened by name, and data are given; given {value!r}")
    about: dict[str, Any] = {"classes": config.num_classes}
    about |= {"dtype": np.float64 if config.dtype == "float64" else np.float32}
    about |= {"moments": None if config.mean is None or config.std is None else (config.mean, config.std)}
    given = _given(data, about)
    if isinstance(given.dataset.train, BatchedSplit):
        for name in ("class_weights", "sampling"):
            if (value := getattr(config, name)) == "balanced":
                raise ValueError(f"{name} 'balanced' needs all train labels, and those of batches come with the images")
    given = given._replace(dataset=_with_validation(given.dataset, config))
    shape = given.dataset.image_shape
    if config.image_size is not None and shape[:2] != (config.image_size, config.image_size):
        raise ValueError(
            f"image_size must be that of the images given, {shape[0]}×{shape[1]}; given {config.image_size}"
        )
    if given.batch_size and config.batch_size not in (None, given.batch_size):
        raise ValueError(f"batch_size must be that of the batches given, {given.batch_size}; given {config.batch_size}")
    return given


def _with_validation(dataset: Dataset, config: TrainConfig) -> Dataset:
    """Holds the config's share of the train images out for validation, with the draw of data that have a name."""
    share = config.validation_share
    if not share:
        return dataset
    if dataset.validation is not None:
        raise ValueError(f"validation_share is for data without a validation part; this has one; given {share}")
    train = dataset.train
    if not isinstance(train, Split):
        raise ValueError(
            f"validation_share draws from train images in memory; give a Dataset with a validation part; given {share}"
        )
    seed = with_recipe(config).seed if config.split_seed is None else config.split_seed
    stay, held_out, notes = validation_of_labels(train.labels, share, seed, dataset.class_names)
    parts = [Split(train.images[places], train.labels[places]) for places in (stay, held_out)]
    about: dict[str, Any] = {"train_sum": sum_of_arrays(parts[0]), "validation_sum": sum_of_arrays(parts[1])}
    if dataset.moments_from == MEASURED:
        about["mean"], about["std"] = moments_of(parts[0].images)
    return replace(dataset, train=parts[0], validation=parts[1], notes=(*dataset.notes, *notes), **about)


def _given(data: Any, about: dict[str, Any]) -> GivenData:
    if isinstance(data, Dataset):
        return GivenData(_known(data))
    if isinstance(data, Batches):
        return GivenData(*from_batches(data, **about))
    if isinstance(data, tuple | list) and len(data) == 2:
        if is_pair(data):
            raise ValueError("data must have a train and a test part: ((images, labels), (test_images, test_labels))")
        train, test = data
        if is_pair(train) and is_pair(test):
            return GivenData(from_arrays(train, test, **about))
        if not is_pair(train):
            return GivenData(*from_batches(Batches(train, test), **about))
    raise ValueError(
        "data must be ((train_images, train_labels), (test_images, test_labels)), a Dataset, Batches, or a tuple of an "
        f"iterable of train batches and one of test batches; given {type(data).__name__!r}"
    )


def _known(dataset: Dataset) -> Dataset:
    """Checks a data set of the user's, names it as given, and adds the hashes that tell its content."""
    classes = len(dataset.class_names)
    parts: dict[str, AnySplit] = {"train": dataset.train, "test": dataset.test}
    parts |= {} if dataset.validation is None else {"validation": dataset.validation}
    known: dict[str, Any] = {}
    for what, split in parts.items():
        if not isinstance(split, Split | StreamedSplit):
            raise ValueError(
                f"the {what} split of a Dataset must be a Split or StreamedSplit; for batches give Batches"
            )
        _check_split(what, split)
        if isinstance(split, Split):
            known[f"{what}_sum"] = sum_of_arrays(split)
        elif getattr(dataset, f"{what}_labels") is None:
            known[f"{what}_labels"] = sum_of_labels(split.labels)
    shapes = {what: _shape(split) for what, split in parts.items()}
    if shapes.get("validation", shapes["test"]) != shapes["test"]:
        raise ValueError(
            f"validation and test images must have one shape; given {shapes['validation']}, {shapes['test']}"
        )
    names_of_classes([split.labels for split in parts.values()], dataset.class_names, classes)
    check_moments(dataset.mean, dataset.std, dataset.image_shape[2])
    kind = dataset.name.partition(":")[0]
    return replace(dataset, name=dataset.name if kind in GIVEN else f"dataset:{dataset.name}", **known)


def _shape(split: AnySplit) -> tuple[int, ...]:
    return split.images.shape[1:] if isinstance(split, Split) else split.image_shape


def _check_split(what: str, split: Split | StreamedSplit) -> None:
    """Raises ValueError unless a split holds what its class says."""
    labels = split.labels
    known = isinstance(labels, np.ndarray) and (labels.ndim, labels.dtype) in ((1, np.int32), (2, np.uint8))
    if not known or not labels.size:
        raise ValueError(
            f"{what} labels of a Dataset must be (examples,) int32; dataset_from_arrays converts others, and those of "
            "several classes an image are (examples, classes) uint8"
        )
    if labels.min() < 0 or (labels.ndim == 2 and labels.max() > 1):
        allowed = "from 0" if labels.ndim == 1 else "0 and 1"
        raise ValueError(f"{what} labels must be {allowed}; given {labels.min() if labels.ndim == 1 else labels.max()}")
    if isinstance(split, StreamedSplit):
        return
    images = split.images
    if not isinstance(images, np.ndarray) or images.ndim != 4 or len(images) != len(labels):
        raise ValueError(f"{what} images of a Dataset must be ({len(labels)}, height, width, channels), of NumPy")
    if images.dtype != np.uint8 and not (np.issubdtype(images.dtype, np.floating) and images.max() > 1):
        raise ValueError(f"{what} images of a Dataset must be from 0 to 255; dataset_from_arrays takes others")
