"""Configs of runs that are wrong in one way each, and what is said of them."""

import json

from common_flax.check_sums import KEY


def with_values(**values):
    """Changes entries of config.json."""
    return lambda config: config | values


def with_option(**options):
    """Changes options of the network."""
    return lambda config: config | {"model": config["model"] | options}


def without(*names):
    """Removes entries of config.json."""
    return lambda config: {name: value for name, value in config.items() if name not in names}


def with_moments(**values):
    """Changes mean or std of the normalisation."""
    return lambda config: config | {"normalisation": config["normalisation"] | values}


NESTED = json.loads("[" * 200 + "]" * 200)
# A config of resnet20 with 4 classes and images of 8×8×3, without a check sum, is changed.
BROKEN = {
    "a list for dtype": (with_values(dtype=["float32"]), "dtype must be a string; given ['float32']"),
    "an object for arch": (with_values(arch={"resnet20": 1}), "arch must be a string; given {'resnet20': 1}"),
    "null for arch": (with_values(arch=None), "arch must be a string; given null"),
    "a number for arch": (with_values(arch=20), "arch must be a string; given 20"),
    "a long arch": (with_values(arch="x" * 10**6), "arch must be a string of length of at most 4096; given 'xxx"),
    "an arch of control characters": (with_values(arch="\x1b[2J\n"), r"unknown arch '\x1b[2J\n'"),
    "another arch": (with_values(arch="resnet21"), "unknown arch 'resnet21'; did you mean 'resnet"),
    "a dense network with the options of a residual one": (
        with_values(arch="densenet_40_12"),
        "densenet_40_12 has no option width; it has ",
    ),
    "text for a number": (with_values(lr="0.1"), "lr must be a number; given '0.1'"),
    "a list for a number": (with_values(weight_decay=[0.1]), "weight_decay must be a number; given [0.1]"),
    "null for a number": (with_values(batch_size=None), "batch_size must be an integer; given null"),
    "true for a number": (with_values(seed=True), "seed must be an integer; given true"),
    "a fraction for an integer": (with_values(batch_size=16.5), "batch_size must be an integer; given 16.5"),
    "a number for true": (with_values(nesterov=1), "nesterov must be true or false; given 1"),
    "text for false": (with_values(nesterov="false"), "nesterov must be true or false; given 'false'"),
    "text for a list": (with_values(augment="flip"), "augment must be a list; given 'flip'"),
    "a number in a list of names": (with_values(augment=["flip", 4]), "augment[1] must be a string; given 4"),
    "a list in a list of names": (with_values(freeze=[["fc/*"]]), "freeze[0] must be a string; given ['fc/*']"),
    "a long list": (
        with_values(freeze=["fc/*"] * 5000),
        "freeze must be a list of length of at most 1024; given a list",
    ),
    "many shares": (with_values(decay_at=[0.5] * 5000), "decay_at must be a list of length of at most 1024; given a"),
    "deep lists": (with_values(mean=NESTED), "mean[0] must be a number; given [[[[["),
    "no batch": (with_values(batch_size=0), "batch_size must be a positive integer; given 0"),
    "a negative batch": (with_values(batch_size=-16), "batch_size must be an integer of at least 0; given -16"),
    "a batch of billions": (with_values(batch_size=10**10), "batch_size must be an integer of at most 16777216; given"),
    "an image size of billions": (
        with_values(image_size=10**9),
        "image_size must be an integer of at most 65536; given",
    ),
    "steps beyond all counting": (with_values(steps=10**18), "steps must be an integer of at most 4294967296; given"),
    "epochs and steps": (with_values(epochs=3), "give epochs or steps, not both; given epochs=3 and steps=12"),
    "a seed of 33 bits": (with_values(seed=2**32), "seed must be from 0 to 4294967295; given 4294967296"),
    "a negative rate": (with_values(lr=-0.1), "lr must be positive and finite; given -0.1"),
    "a share over 1": (with_values(test_crop=1.5), "test_crop must be over 0 and at most 1; given 1.5"),
    "a share of 0": (with_values(augment_until=0), "augment_until must be over 0 and at most 1; given 0"),
    "an average that never moves": (with_values(ema=1.0), "ema must be at least 0 and under 1; given 1.0"),
    "falling shares": (with_values(decay_at=[0.9, 0.5]), "decay_at must be rising shares over 0 and under 1"),
    "an unknown augmentation": (with_values(augment=["flop"]), "unknown augmentation 'flop'; did you mean 'flip'?"),
    "an amount without bounds": (with_values(augment=["pad-crop:99999999"]), "takes a whole number from 0 to 64"),
    "an object for weights of classes": (with_values(class_weights={"a": 1}), "class_weights must be "),
    "texts for weights of classes": (with_values(class_weights=["1", "2"]), "class_weights[0] must be a number; given"),
    "negative weights of classes": (
        with_values(class_weights=[1.0, -1.0]),
        "class_weights must be balanced, or finite",
    ),
    "unknown weights of classes": (with_values(class_weights="even"), "class_weights must be balanced, or finite"),
    "a layer decay over 1": (with_values(layer_decay=1.5), "layer_decay must be over 0 and at most 1; given 1.5"),
    "an unknown sampling": (with_values(sampling="equal"), "unknown sampling 'equal'; allowed: 'shuffled', 'balanced'"),
    "an unknown optimizer": (with_values(optimizer="adamm"), "unknown optimizer 'adamm'; did you mean 'adam'?"),
    "an unknown type": (with_values(dtype="float8"), "unknown dtype 'float8'; did you mean"),
    "an unknown data set": (with_values(data="cats"), "unknown data set 'cats'; allowed: 'digits', 'fake'"),
    "an unknown recipe": (with_values(recipe="he2025"), "unknown recipe 'he2025'"),
    "no recipe": (with_values(recipe=None), "recipe must be a string; given null"),
    "mean without std": (
        with_values(mean=[0.5, 0.5, 0.5]),
        "give mean and std, or neither; given mean=[0.5, 0.5, 0.5]",
    ),
    "an option's mean of one channel": (with_values(mean=[0.5], std=[0.2]), "mean must be 3 numbers, one for each ch"),
    "a new head of nothing": (with_values(new_head=True), "new_head is for weights to start from; none are given"),
    "an unknown field": (with_values(colour="red"), "there is no field 'colour'"),
    "an option that never was": (with_option(depth=20), "there is no field 'model.depth'"),
    "a misspelt option": (with_option(widht=4), "there is no field 'model.widht'"),
    "an option of another network": (with_option(growth_rate=12), "resnet20 has no option growth_rate; it has "),
    "a width of nothing": (with_option(width=0), "width must be a positive integer; given 0"),
    "a width of millions": (with_option(width=10**7), "model.width must be an integer of at most 65536"),
    "a width of a text": (with_option(width="4"), "model.width must be an integer or null"),
    "a list of widths": (with_option(width=[4, 8]), "model.width must be an integer or null"),
    "a shortcut D": (with_option(shortcut="D"), "unknown shortcut 'D'; allowed: 'A', 'B', 'C'"),
    "a stem of a flower": (with_option(stem_type="rose"), "unknown stem_type 'rose'"),
    "all paths dropped": (with_option(drop_path=1.0), "drop_path must be at least 0 and under 1; given 1.0"),
    "a list of options": (with_values(model=["width"]), "model must be an object; given ['width']"),
    "null for options": (with_values(model=None), "model must be an object"),
    "an old and a new name": (with_values(optimiser="sgd"), "optimiser and optimizer are one option, and both are"),
    "an old and a new option": (with_option(stem="cifar"), "stem and stem_type are one option, and both are given"),
    "a class too few": (with_values(class_names=["0", "1", "2"]), "class_names must be num_classes, 4; given 3"),
    "no class": (with_values(num_classes=0), "num_classes must be an integer of at least 1; given 0"),
    "classes by the billion": (with_values(num_classes=10**9), "num_classes must be an integer of at most 16777216"),
    "a text of classes": (with_values(class_names="0123"), "class_names must be a list; given '0123'"),
    "a number for a class": (with_values(class_names=["0", "1", "2", 3]), "class_names[3] must be a string; given 3"),
    "an image of two sides": (with_values(image_shape=[8, 8]), "image_shape must be a list of length 3; given [8, 8]"),
    "an image of billions": (with_values(image_shape=[10**9, 8, 3]), "image_shape[0] must be an integer of at most"),
    "an image of nothing": (with_values(image_shape=[8, 0, 3]), "image_shape[1] must be an integer of at least 1"),
    "channels by the million": (with_values(image_shape=[8, 8, 10**6]), "image_shape[2] must be an integer of at most"),
    "text for an image": (with_values(image_shape="8x8x3"), "image_shape must be a list; given '8x8x3'"),
    "a mean of two channels": (with_moments(mean=[0.5, 0.5]), "normalisation.mean must be 3 numbers, one for each"),
    "a std of four channels": (with_moments(std=[0.5] * 4), "normalisation.std must be 3 numbers, one for each"),
    "a std of 0": (with_moments(std=[0.5, 0, 0.5]), "std must be positive and finite; given 0"),
    "a negative std": (with_moments(std=[0.5, -0.5, 0.5]), "std must be positive and finite; given -0.5"),
    "a text for a mean": (with_moments(mean=["0.5"] * 3), "normalisation.mean[0] must be a number; given '0.5'"),
    "no mean at all": (with_moments(mean=[]), "normalisation.mean must be a list of length of at least 1; given []"),
    "a median": (with_moments(median=[0.5] * 3), "there is no field 'normalisation.median'"),
    "a list for normalisation": (with_values(normalisation=[0.5, 0.5]), "normalisation must be an object; given"),
    "no train images": (with_values(train_examples=0), "train_examples must be an integer of at least 1; given 0"),
    "a version as a number": (with_values(versions={"jax": 0.1}), "versions[...] must be a string; given {'jax': 0.1}"),
    "a mark as a number": (with_values(mark=7), "mark must be a string; given 7"),
    "a check sum of something else": (with_values(**{KEY: "00000000"}), "its content is not what was written"),
    "a check sum as a number": (with_values(**{KEY: 0}), "its content is not what was written"),
    "no network": (without("arch"), "arch is missing"),
    "no classes": (without("num_classes"), "num_classes is missing"),
    "no names of classes": (without("class_names"), "class_names is missing"),
    "no normalisation": (without("normalisation"), "normalisation is missing"),
    "no shape of images": (without("image_shape"), "image_shape is missing"),
    "nothing": (lambda config: {}, "arch is missing"),
}


def places(values, place=()):
    """Returns the places of all values in a tree of objects and lists."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    inner = [found for name, value in pairs for found in places(value, (*place, name))]
    return [place, *inner] if place else inner


def replaced(values, place, value):
    """Returns a copy of a tree with another value at a place."""
    copy = json.loads(json.dumps(values))
    *outer, last = place
    at = copy
    for name in outer:
        at = at[name]
    at[last] = value
    return copy
