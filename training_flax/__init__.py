"""Training and prediction: data, steps, recipes, checkpoints, metrics, pictures."""

from common_flax import __version__
from common_flax.command_line import parse_options
from common_flax.renamed import renamed
from layers_flax.nn.normalise import normalise
from training_flax.augment.mix import mix, smooth_labels
from training_flax.augment.registry import augment_images, example_keys, parse_augmentations
from training_flax.config.config import TrainConfig
from training_flax.config.recipes import RECIPES, Recipe, with_recipe
from training_flax.data.dataset import Dataset, Split
from training_flax.data.held_out import Draw
from training_flax.data.loader import batch_indices
from training_flax.data.open import open_dataset
from training_flax.evaluate import evaluate_run
from training_flax.fit import FitResult, fit
from training_flax.given.arrays import dataset_from_arrays
from training_flax.given.batches import Batches
from training_flax.given.callbacks import Callback, RunView
from training_flax.inference.predict import Predictions, predict
from training_flax.learn.evaluation import Evaluation, evaluate
from training_flax.learn.multi_label import (
    ClassLogits,
    average_precision,
    make_multi_label_eval_step,
    multi_label_scores,
)
from training_flax.learn.optimizers import learning_rate, make_optimizer
from training_flax.learn.per_class import ClassScores, Confusion, class_scores, commonest_confusion, worst_class
from training_flax.learn.state import EvalResult, LossScale, TrainMetrics, TrainState, init_state, start_state
from training_flax.learn.steps import make_eval_step, make_train_step
from training_flax.range_test import RateRange, lr_range
from training_flax.run.checkpoints import restore
from training_flax.run.job import Job
from training_flax.run.plan import plan
from training_flax.runtime.compilation import compiler_options, keep_compiled_programs
from training_flax.runtime.distributed import join_processes
from training_flax.runtime.memory import keep_memory, trim_memory
from training_flax.runtime.signals import RunError, Stopped, StopRequest, stop_on_signals
from weights_flax.io.archs import ARCHS, FAMILIES, build_model

__all__ = [
    "ARCHS",
    "FAMILIES",
    "RECIPES",
    "Batches",
    "Callback",
    "ClassLogits",
    "ClassScores",
    "Confusion",
    "Dataset",
    "Draw",
    "EvalResult",
    "Evaluation",
    "FitResult",
    "Job",
    "LossScale",
    "Predictions",
    "RateRange",
    "Recipe",
    "RunError",
    "RunView",
    "Split",
    "StopRequest",
    "Stopped",
    "TrainConfig",
    "TrainMetrics",
    "TrainState",
    "__version__",
    "augment_images",
    "average_precision",
    "batch_indices",
    "build_model",
    "class_scores",
    "commonest_confusion",
    "compiler_options",
    "dataset_from_arrays",
    "evaluate",
    "evaluate_run",
    "example_keys",
    "fit",
    "init_state",
    "join_processes",
    "keep_compiled_programs",
    "keep_memory",
    "learning_rate",
    "lr_range",
    "make_eval_step",
    "make_multi_label_eval_step",
    "make_optimizer",
    "make_train_step",
    "mix",
    "multi_label_scores",
    "normalise",
    "open_dataset",
    "parse_augmentations",
    "parse_options",
    "plan",
    "predict",
    "restore",
    "smooth_labels",
    "start_state",
    "stop_on_signals",
    "trim_memory",
    "with_recipe",
    "worst_class",
]

__getattr__ = renamed(__name__, {"Part": Split, "make_optimiser": make_optimizer})
