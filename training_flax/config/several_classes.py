"""Options for data of which an image may have none, one or several classes."""

from dataclasses import replace

from training_flax.config.config import TrainConfig
from training_flax.data.dataset import Dataset


def for_several_classes(config: TrainConfig, asked: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Returns the options for multi-label data: the binary loss, and no label smoothing, whatever the recipe says.

    Mixed images need no rule of their own: the binary loss takes a class with over a fifth of the target as present.
    Options for other data stay as they are.

    Args:
        config: the options before those of the recipe.
        asked: those of them that the user gave, without those of a run that exists.
        dataset: the run's data.

    Raises:
        ValueError: one line: an option is given that is for one class an image; or a part that scores are measured on
            has no image of any class.
    """
    if not dataset.multi_label:
        return config
    about = f"is for data with one class an image, and one of {dataset.name} may have several"
    if asked.loss == "softmax":
        raise ValueError(f"loss 'softmax' {about}: take 'binary', or none; given {asked.loss!r}")
    if asked.label_smoothing:
        raise ValueError(f"label_smoothing {about}; given {asked.label_smoothing}")
    if asked.sampling == "balanced":
        raise ValueError(f"sampling 'balanced' {about}: class_weights 'balanced' weighs them; given {asked.sampling!r}")
    for part, split in (("test", dataset.test), ("validation", dataset.validation)):
        if split is not None and not split.labels.any():
            raise ValueError(f"the {part} part of {dataset.name} has no image with a class, so nothing can be measured")
    return replace(config, loss="binary", label_smoothing=0.0)
