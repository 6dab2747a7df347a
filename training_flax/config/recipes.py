"""Published ways to train, each a frozen config with its source and the result that it aims for."""

from dataclasses import dataclass, fields, replace
from typing import Any

from common_flax.checks import one_of
from training_flax.augment.registry import current_names
from training_flax.config.checks import check
from training_flax.config.config import MODEL, ResolvedConfig, TrainConfig, reaching
from weights_flax.io.archs import ARCHS, constructor_options, published_size


@dataclass(frozen=True)
class Recipe:
    """A config to start from.

    Attributes:
        source: paper and section.
        target: the published result, with its networks.
        config: the options; for those that are None, see the defaults of `ResolvedConfig`.
    """

    source: str
    target: str
    config: TrainConfig


_CIFAR_CROPS, _IMAGENET_CROPS = ("pad-crop:4", "flip"), ("random-resized-crop:0.08", "flip")
_HE2015_CIFAR = TrainConfig(arch="resnet20", steps=64_000, batch_size=128, augment=_CIFAR_CROPS, lr=0.1)
_HE2015_IMAGENET = TrainConfig(
    arch="resnet50", image_size=224, epochs=90, batch_size=256, augment=_IMAGENET_CROPS, lr=0.1, decay_at=(1 / 3, 2 / 3)
)
_RECIPES = {
    "quick-digits": Recipe(
        source="this project: a short run for handwriting, by SGD with warm-up and cosine (arXiv:1608.03983), the last "
        "epoch without augmentation (arXiv:1909.09148)",
        target="densenet121 on digits: 97 % of the test images and more",
        config=TrainConfig(
            arch="densenet121",
            epochs=8,
            batch_size=64,
            augment=("affine",),
            augment_until=7 / 8,
            label_smoothing=0.1,
            lr=0.05,
            nesterov=True,
            weight_decay=2e-2,
            decay="kernels",
            schedule="cosine",
            warmup=0.1,
        ),
    ),
    "he2015-cifar": Recipe(
        source="He 2015, section 4.2; each channel's mean and deviation in place of each pixel's mean",
        target="CIFAR-10 test error: resnet20 8.75 %, resnet32 7.51 %, resnet44 7.17 %, resnet56 6.97 %",
        config=_HE2015_CIFAR,
    ),
    "he2015-cifar-deep": Recipe(
        source="He 2015, section 4.2: over a hundred layers start at a learning rate of 0.01, for about 400 steps",
        target="CIFAR-10 test error: resnet110 6.43 %, resnet1202 7.93 %",
        config=replace(_HE2015_CIFAR, arch="resnet110", warmup=400 / 64_000, warmup_lr=0.01, warmup_shape="constant"),
    ),
    "huang2017-cifar": Recipe(
        source="Huang 2017, section 4.2; dropout 0.2 where data is not augmented",
        target="CIFAR-10+ test error: densenet_40_12 5.24 %, densenet_bc_100_12 4.51 %, densenet_bc_190_40 3.46 %",
        config=TrainConfig(
            arch="densenet_40_12", epochs=300, batch_size=64, augment=_CIFAR_CROPS, lr=0.1, nesterov=True
        ),
    ),
    "he2015-imagenet": Recipe(
        source="He 2015, section 3.4; random-resized crop in place of scale augmentation, no PCA colour augmentation, "
        "and 90 epochs in place of 600,000 steps",
        target="ImageNet top-1 error, one crop: resnet50 24.7 %, resnet101 23.6 %, resnet152 23.0 %",
        config=_HE2015_IMAGENET,
    ),
    "goyal2017": Recipe(
        source="Goyal 2017, section 5.1: linear scaling, five epochs of warm-up, Nesterov's momentum, no decay of "
        "BatchNorm, zero-initialised last scales; color as in its footnote; the classifier is drawn as in all networks "
        "here, in place of N(0, 0.01)",
        target="ImageNet top-1 error, one crop: resnet50 23.74 % at a batch of 8192",
        config=replace(
            _HE2015_IMAGENET,
            batch_size=8192,
            augment=(*_IMAGENET_CROPS, "color:0.4"),
            lr_scaling="linear",
            nesterov=True,
            decay="kernels",
            decay_at=(30 / 90, 60 / 90, 80 / 90),
            warmup=5 / 90,
            warmup_lr=0.1,
            zero_init=True,
        ),
    ),
    "a3": Recipe(
        source="Wightman 2021, table 2, A3: 100 epochs at 160 pixels; each image is mixed with its neighbour by a "
        "share of its own, crops are bicubic in place of bilinear or bicubic at random, and the learning rate falls at "
        "every step",
        target="ImageNet top-1 accuracy: resnet50 78.05 % at 224 pixels",
        config=TrainConfig(
            arch="resnet50",
            image_size=160,
            test_image_size=224,
            test_crop=0.95,
            test_crop_rule="timm",
            interpolation="bicubic",
            epochs=100,
            batch_size=2048,
            augment=(*_IMAGENET_CROPS, "rand-augment:6:0.5"),
            mixup=0.1,
            cutmix=1.0,
            loss="binary",
            optimizer="lamb",
            lr=8e-3,
            weight_decay=0.02,
            decay="kernels",
            schedule="whole-cosine",
            warmup=0.05,
            warmup_lr=1e-4,
            clip_norm=1.0,
            zero_init=True,
        ),
    ),
    "fine-tune": Recipe(
        source="this project: published weights, a tenth of the usual learning rate, warm-up and cosine",
        target="50 images of each class of CIFAR-10 (JPEG), from weights that know them: resnet20 over 80 %",
        config=TrainConfig(
            arch="resnet50", epochs=20, batch_size=32, augment=_CIFAR_CROPS, lr=0.01, schedule="cosine", warmup=0.1
        ),
    ),
}
RECIPES = {name: replace(recipe, config=replace(recipe.config, recipe=name)) for name, recipe in _RECIPES.items()}


def suitable_recipe(config: TrainConfig) -> str:
    """Names the recipe for a config without one, by the data, or else by the network and its published image size."""
    arch = str(config.arch)
    if config.data in (None, "digits", "dataset:digits"):  # by name, or opened and passed to `fit`
        return "quick-digits"
    if published_size(ARCHS[arch]()) > 32:
        return "he2015-imagenet"
    return "huang2017-cifar" if arch.startswith("densenet") else "he2015-cifar"


def with_recipe(config: TrainConfig, *, batch_norm: bool = True) -> ResolvedConfig:
    """Fills in the options that are None from the recipe, else from the defaults of `ResolvedConfig`.

    A config with epochs or steps takes neither from the recipe.

    Args:
        config: any config.
        batch_norm: the network has BatchNorm. Networks without it diverge at the recipes' learning rates, and get a
            tenth.

    Raises:
        ValueError: an option has a wrong value, there is no architecture, or no such recipe (the message names the
            nearest).
    """
    check(config)
    if config.arch is None:
        raise ValueError("arch is missing: name one, such as densenet121, or as out the folder of a run that exists")
    name = config.recipe or suitable_recipe(config)
    one_of("recipe", name, RECIPES)
    recipe = RECIPES[name].config
    if config.epochs is not None or config.steps is not None:
        recipe = replace(recipe, epochs=None, steps=None)
    if not batch_norm and recipe.lr is not None:
        recipe = replace(recipe, lr=recipe.lr / 10)
    # Options of the recipe that the network does not have, such as zero_init, are ignored.
    missing = set(reaching(MODEL)) - set(constructor_options(config.arch))
    recipe = replace(recipe, **dict.fromkeys(missing))  # type: ignore[arg-type]
    resolved = ResolvedConfig(**_named_options(recipe) | _named_options(config) | {"recipe": name})
    return replace(resolved, augment=current_names(resolved.augment))


def _named_options(config: TrainConfig) -> dict[str, Any]:
    values = {option.name: getattr(config, option.name) for option in fields(TrainConfig)}
    return {name: value for name, value in values.items() if value is not None}
