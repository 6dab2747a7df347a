"""Libraries that only some runs need, found or asked for before a run begins."""

import importlib
from typing import Any

from training_flax.config import TrainConfig


def library(name: str, extra: str) -> Any:
    """The module `name`, or a ValueError that says which extra installs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(f"{extra} needs {name}: pip install '.[{extra}]'") from None


def check_libraries(config: TrainConfig) -> None:
    """Raises ValueError if a library that the config asks for is not installed."""
    if config.tensorboard:
        library("tensorboardX", "tensorboard")
    if config.wandb:
        library("wandb", "wandb")
