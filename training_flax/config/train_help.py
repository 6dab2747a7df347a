"""The words of `train.py --help`, and of `train.py` alone."""

from training_flax.config.recipes import RECIPES
from weights_flax.io.archs import FAMILIES

GROUPS = {
    "run": ("out", "recipe", "seed", "extend", "eval_only", "lr_range", "print_config", "patience"),
    "data": (
        *("data", "data_dir", "train_split", "test_split", "validation_split", "test_share", "validation_share"),
        *("split_seed", "sampling", "strict", "num_classes", "image_size", "test_image_size"),
        *("test_crop", "test_crop_rule", "interpolation", "mean", "std"),
    ),
    "model": (
        *("arch", "weights", "which", "new_head", "ignore_unused", "freeze", "stem_type", "shortcut"),
        *("bottleneck_stride", "padding", "width", "growth_rate", "zero_init", "dropout", "drop_path"),
        *("frozen_batch_norm", "remat", "dtype"),
    ),
    "optimizer": (
        *("epochs", "steps", "batch_size", "accumulate", "loss", "class_weights", "optimizer", "lr", "lr_scaling"),
        *(
            "layer_decay",
            "momentum",
            "nesterov",
            "weight_decay",
            "decay",
            "schedule",
            "decay_at",
            "warmup",
            "warmup_lr",
            "warmup_shape",
        ),
        *("clip_norm", "ema", "ema_warmup", "batch_norm_decay", "max_skipped"),
    ),
    "augmentation": ("augment", "augment_until", "mixup", "cutmix", "label_smoothing"),
    "devices": (
        *("parallel", "shard_state", "batch_norm", "reduce_dtype", "workers", "coordinator", "num_processes"),
        "process_id",
    ),
    "logging": ("tensorboard", "wandb", "profile", "checkpoint_minutes", "verbose"),
}
"""Titles in --help, and the options below each, in the order in which they are shown."""


def help_text() -> str:
    """Returns the text above the options in --help, with the architectures and recipes."""
    width = max(map(len, FAMILIES))
    families = [f"  {name:{width}}  {', '.join(arch.__name__ for arch in archs)}" for name, archs in FAMILIES.items()]
    recipes = [f"  {name:{width}}  {recipe.target}" for name, recipe in RECIPES.items()]
    lines = ["Trains a residual or densely connected network in JAX.", "", "Architectures:", *families]
    return "\n".join([*lines, "", "Recipes, and what they aim for:", *recipes])


def how_to_start(prog: str) -> list[str]:
    """Returns the lines that the command shows when it is called without options."""
    command = prog if prog.startswith("python") else f"python {prog}"
    examples = {
        "--arch densenet121": "handwritten digits, without a download",
        "--arch resnet18 --data folder:PHOTOS": "PHOTOS/CLASS/*.jpg",
        "--arch resnet20 --data tfds:cifar10": "after: python -m training_flax.prepare cifar10",
        "--out runs/RUN": "goes on with a run; --eval-only evaluates it",
    }
    width = max(map(len, examples))
    return [
        "Name a network to train, for example:",
        *(f"  {command} {options:{width}}  # {about}" for options, about in examples.items()),
        f"All architectures, recipes and options: {command} --help",
    ]
