"""The images that a network sees: opened by the options of a run, and normalised as these or the weights say."""

from dataclasses import replace
from pathlib import Path

from training_flax.config.config import ResolvedConfig
from training_flax.config.of_run import place_of_data
from training_flax.config.run_config import is_run, read_config
from training_flax.data.dataset import Dataset, StreamedSplit
from training_flax.data.held_out import Draw, read_split
from training_flax.data.open import open_dataset
from training_flax.learn.starting_weights import moments_from, normalisation
from weights_flax.io.archs import ARCHS, published_size


def open_images(config: ResolvedConfig, default_size: int | None = None) -> Dataset:
    """Opens the data of a config, with the size of its test images, and the normalisation that it has or its weights.

    Args:
        config: the resolved options.
        default_size: the size of images that differ in size; None is that which the network was published for.

    Raises:
        ValueError: as `open_dataset`.
    """
    dataset = open_dataset(
        place_of_data(config),
        data_dir=config.data_dir,
        train_split=config.train_split,
        test_split=config.test_split,
        validation_split=config.validation_split,
        strict=config.strict,
        image_size=config.image_size,
        default_image_size=default_size or published_size(ARCHS[config.arch]()),
        draw=drawing(config),
    )
    side = config.test_image_size
    if side is not None and isinstance(dataset.test, StreamedSplit):
        shape = (side, side, dataset.image_shape[2])
        dataset = replace(dataset, test=replace(dataset.test, image_shape=shape))
        if isinstance(dataset.validation, StreamedSplit):
            dataset = replace(dataset, validation=replace(dataset.validation, image_shape=shape))
    return normalised(replace(dataset, name=config.data), config)


def drawing(config: ResolvedConfig) -> Draw:
    """Returns the draw of the images that are held out: as it was in the run in `config.out`, or a new one.

    Raises ValueError if the run's split.csv is damaged.
    """
    seed = config.seed if config.split_seed is None else config.split_seed
    draw = Draw(config.test_share, config.validation_share, seed)
    run = config.out
    if run is None or not is_run(run):
        return draw
    try:
        stored = read_config(run)
    except ValueError:  # the reader of the run's folder says so
        return draw
    begun = stored["seed"] if stored["split_seed"] is None else stored["split_seed"]
    if (stored["test_share"], stored["validation_share"], begun) != (draw.test_share, draw.validation_share, seed):
        return draw
    sums = {part: stored.get(f"{part}_files") for part in ("train", "test", "validation")}
    return replace(draw, kept=read_split(Path(run), sums))


def normalised(dataset: Dataset, config: ResolvedConfig) -> Dataset:
    """Returns the data set with mean and std of the config or its weights, where they have any."""
    moments = normalisation(config, dataset.image_shape[2])
    if moments is None:
        return dataset
    return replace(dataset, mean=moments[0], std=moments[1], moments_from=moments_from(config))


def check_test_size(side: int | None, dataset: Dataset) -> None:
    """Raises ValueError if images that are not resized are to have another size in tests."""
    if side not in (None, dataset.image_shape[0]) and not isinstance(dataset.test, StreamedSplit):
        shown = "×".join(map(str, dataset.image_shape[:2]))
        raise ValueError(
            f"test_image_size is for images that are resized; those of {dataset.name} all are {shown}; given {side}"
        )
