"""Training: data in, steps, checkpoints, metrics, pictures; and a run's weights out."""

from training_flax.archs import ARCHS, FAMILIES, build_model
from training_flax.augment import random_affine
from training_flax.checkpoints import restore
from training_flax.compilation import keep_compiled_programs
from training_flax.config import TrainConfig
from training_flax.data import Dataset, Part, batch_indices, open_dataset
from training_flax.evaluation import Evaluation, evaluate
from training_flax.fit import FitResult, fit
from training_flax.job import Job, prepare
from training_flax.steps import (
    EvalResult,
    TrainMetrics,
    TrainState,
    init_state,
    make_eval_step,
    make_optimiser,
    make_train_step,
    normalise,
)

__all__ = [
    "ARCHS",
    "FAMILIES",
    "Dataset",
    "EvalResult",
    "Evaluation",
    "FitResult",
    "Job",
    "Part",
    "TrainConfig",
    "TrainMetrics",
    "TrainState",
    "batch_indices",
    "build_model",
    "evaluate",
    "fit",
    "init_state",
    "keep_compiled_programs",
    "make_eval_step",
    "make_optimiser",
    "make_train_step",
    "normalise",
    "open_dataset",
    "prepare",
    "random_affine",
    "restore",
]
