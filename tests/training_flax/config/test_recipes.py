"""Recipes, and the options that a user overrides."""

from dataclasses import fields, replace

import pytest

from training_flax import ARCHS, RECIPES, TrainConfig, build_model, with_recipe
from training_flax.config.checks import check
from training_flax.config.config import MODEL, RUN, reaching
from training_flax.config.recipes import suitable_recipe

STARTING = {"weights", "which", "num_classes", "mean", "std", "train_split", "test_split"}
HELD_OUT = {"validation_split", "test_share", "split_seed", "patience"}
OPEN = {"image_size", "test_image_size", "epochs", "steps", "class_weights"}
MAY_BE_OPEN = {*reaching(MODEL), *reaching(RUN)} | OPEN | STARTING | HELD_OUT


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_sourced_and_leaves_nothing_open(name):
    recipe = RECIPES[name]
    assert recipe.source
    assert "%" in recipe.target
    config = with_recipe(TrainConfig(recipe.config.arch, recipe=name))
    check(config)
    left_open = {option.name for option in fields(config) if getattr(config, option.name) is None}
    assert left_open <= MAY_BE_OPEN
    assert (config.epochs is None) != (config.steps is None)
    assert with_recipe(config) == config


@pytest.mark.parametrize(
    ("arch", "data", "recipe"),
    [
        ("densenet121", "digits", "quick-digits"),
        ("resnet20", "digits", "quick-digits"),
        ("resnet20", "folder:x", "he2015-cifar"),
        ("wide_resnet28_10", "tfds:cifar10", "he2015-cifar"),
        ("densenet_40_12", "folder:x", "huang2017-cifar"),
        ("resnet50", "folder:x", "he2015-imagenet"),
        ("densenet121", "fake:8x8x3:2", "he2015-imagenet"),
        ("vgg16", "folder:x", "he2015-imagenet"),
    ],
)
def test_the_recipe_that_suits(arch, data, recipe):
    assert suitable_recipe(TrainConfig(arch, data)) == recipe
    assert with_recipe(TrainConfig(arch, data)).recipe == recipe


def test_any_field_can_be_overridden():
    given = dict(lr=0.3, batch_size=7, nesterov=True, augment=(), weight_decay=0.0, schedule="cosine")
    config = with_recipe(TrainConfig("resnet20", "folder:x", **given))
    assert {name: getattr(config, name) for name in given} == given
    assert config.steps == 64_000
    assert config.momentum == 0.9


def test_naming_epochs_or_steps_overrides_both():
    config = with_recipe(TrainConfig("resnet20", "folder:x", epochs=3))
    assert (config.epochs, config.steps) == (3, None)
    config = with_recipe(TrainConfig("densenet121", steps=3))
    assert (config.epochs, config.steps) == (None, 3)


def test_without_batch_norm_a_tenth_of_the_recipes_rate_but_never_of_the_users():
    assert with_recipe(TrainConfig("vgg11"), batch_norm=False).lr == pytest.approx(0.005)
    assert with_recipe(TrainConfig("vgg11", lr=0.3), batch_norm=False).lr == 0.3


def test_unknown_recipes_are_named():
    with pytest.raises(ValueError, match=r"unknown recipe 'he2015'; did you mean 'he2015-cifar'\?"):
        with_recipe(TrainConfig("resnet20", recipe="he2015"))


@pytest.mark.parametrize("arch", ["resnet20", "densenet121", "vgg11", "plain20"])
def test_options_of_the_network_are_keywords_of_some_constructor(arch):
    from weights_flax.io.archs import constructor_options

    everything = {name for arch in ARCHS for name in constructor_options(arch)}
    assert set(reaching(MODEL)) <= everything
    for name in set(reaching(MODEL)) - set(constructor_options(arch)):
        with pytest.raises(ValueError, match=f"unknown option of {arch} '{name}'"):
            build_model(arch, **{name: 1})


def test_a_recipes_option_is_for_networks_that_have_it():
    assert with_recipe(TrainConfig("resnet50", "folder:x", recipe="goyal2017")).zero_init is True
    assert with_recipe(TrainConfig("densenet121", "folder:x", recipe="goyal2017")).zero_init is None


OF_PAPERS = {
    "a3": {
        "optimizer": "lamb",
        "zero_init": True,
        "augment": ("random-resized-crop:0.08", "flip", "rand-augment:6:0.5"),
        "schedule": "whole-cosine",
        "test_crop_rule": "timm",
        "interpolation": "bicubic",
        "clip_norm": 1.0,
    },
    "goyal2017": {"nesterov": True, "momentum": 0.9, "zero_init": True, "decay": "kernels", "lr_scaling": "linear"},
    "he2015-imagenet": {"nesterov": False, "decay": "all", "schedule": "step"},
}
DEVIATIONS = {
    "a3": ("each image is mixed with its neighbour", "bicubic in place of bilinear or bicubic at random", "every step"),
    "goyal2017": ("classifier is drawn as in all networks here, in place of N(0, 0.01)",),
    "he2015-imagenet": ("random-resized crop in place of scale augmentation", "no PCA colour", "90 epochs in place of"),
}


@pytest.mark.parametrize("name", OF_PAPERS)
def test_recipes_are_their_papers_or_say_where_they_are_not(name):
    config = with_recipe(TrainConfig("resnet50", "folder:x", recipe=name))
    assert {option: getattr(config, option) for option in OF_PAPERS[name]} == OF_PAPERS[name]
    assert all(text in RECIPES[name].source for text in DEVIATIONS[name])


def test_configs_are_frozen():
    with pytest.raises(AttributeError):
        RECIPES["a3"].config.lr = 1.0
    assert replace(RECIPES["a3"].config, lr=1.0).lr == 1.0
