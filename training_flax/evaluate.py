"""Evaluation of a run, or of a file of weights, on the test part of its data."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from common_flax.backend import usual_settings
from common_flax.checks import check_positive
from common_flax.terminal import complain, say
from training_flax.config.config import MODEL, ResolvedConfig, TrainConfig, reaching
from training_flax.config.of_run import options_of_run, options_of_weights
from training_flax.config.recipes import with_recipe
from training_flax.config.run_config import is_run
from training_flax.data.dataset import Dataset
from training_flax.inference.trained import network_of_run, types_of
from training_flax.introduction import passed_over
from training_flax.learn.evaluation import Evaluation, evaluate
from training_flax.learn.images import check_test_size, open_images
from training_flax.learn.starting_weights import seen_as_before
from training_flax.results import score_line
from training_flax.run.plan import images_of_run
from weights_flax import load_model
from weights_flax.formats.run import origin, run_in
from weights_flax.io.archs import describe, published_size
from weights_flax.io.load import HINT

OTHER_DATA = "; --weights RUN --data NAME evaluates on other data"


class _Evaluated(NamedTuple):
    """The network and the images of an evaluation; `title` names the weights."""

    title: str
    model: nn.Module
    variables: Mapping[str, Any]
    dataset: Dataset
    config: ResolvedConfig


def evaluate_run(config: TrainConfig, *, quiet: bool = False) -> Evaluation:
    """Evaluates the run in `config.out`, or the network of `config.weights`, on the whole test part of its data.

    A run knows its architecture and data: `TrainConfig(out=RUN)` is enough. It gives its averaged weights if it has
    any, or those that `config.which` names; other options that are given must be the run's, but for `batch_size`, which
    changes only the speed. Weights in a file know their data if a run wrote them; for others, and for other data,
    `config.data` names them. The classifier is always that of the weights. The line of the result is printed.

    Args:
        config: the options; see above.
        quiet: print nothing.

    Raises:
        ValueError: neither run nor weights are given, the run differs from the options that are given, or its test
            images are others now; the weights cannot be read, no data are known, they have another number of classes
            than the network; or an option is wrong.
    """
    if config.out is None and config.weights is None:
        raise ValueError("evaluation needs weights, or the folder of a run as out; neither is given")
    if config.out is None and config.data is None and run_in(Path(str(config.weights))):
        config = replace(config, out=Path(str(config.weights)), weights=None)
    if config.out is not None and not is_run(config.out):
        raise ValueError(f"out {str(config.out)!r} holds no run to evaluate; weights takes files of weights")
    if config.batch_size is not None:
        check_positive("batch_size", config.batch_size)
    # The weights to evaluate, and the speed, are no options of a run's training.
    given = config if config.out is None else replace(config, which=None, batch_size=None)
    known = options_of_weights(given) if config.out is None else options_of_run(given, hint=OTHER_DATA)
    with usual_settings(x64=known.dtype == "float64"):
        evaluated = _weights(known, config) if config.out is None else _run(given, config.which)
        return _evaluate(evaluated, config.batch_size, quiet)


def _run(given: TrainConfig, which: str | None) -> _Evaluated:
    config, dataset = images_of_run(given, hint=OTHER_DATA)
    trained = network_of_run(Path(str(given.out)), config.dtype, which)
    return _Evaluated(trained.origin or "weights", trained.model, trained.variables, dataset, config)


def _weights(known: TrainConfig, given: TrainConfig) -> _Evaluated:
    source, model, variables, card = str(known.weights), *_network(known)
    # The recipe of a network without a name is asked for the crop alone, which is that of its kind.
    arch = describe(model)[0] or known.arch or ("resnet50" if published_size(model) > 32 else "resnet20")
    config = with_recipe(seen_as_before(replace(known, arch=arch)))
    shape = card.get("image_shape")
    try:
        dataset = open_images(config, shape[0] if shape else published_size(model))
    except ValueError as error:
        if given.data is not None:
            raise
        raise ValueError(f"{error}; these data are named by the card of weights {source!r}, others by --data") from None
    check_test_size(given.test_image_size, dataset)
    _check_classes(source, getattr(model, "num_classes"), card, dataset)  # noqa: B009
    return _Evaluated(f"{origin(card) or 'weights'} in {source}", model, variables, dataset, config)


def _network(known: TrainConfig) -> tuple[nn.Module, Mapping[str, Any], Mapping[str, Any]]:
    """Loads the network of `known.weights`, with the options that are given, its variables and its card."""
    options = {name: value for name in reaching(MODEL) if (value := getattr(known, name)) is not None}
    options |= types_of(known.dtype or "float32")
    about: dict[str, Any] = {"which": known.which, "ignore_unused": bool(known.ignore_unused)}
    try:
        model, variables, card = load_model(str(known.weights), known.arch, **about, **options)
    except ValueError as error:
        raise ValueError(str(error).replace(f"; {HINT}", "; an evaluation needs the classifier they have")) from None
    return model, variables, card


def _check_classes(source: str, classes: int, card: Mapping[str, Any], dataset: Dataset) -> None:
    """Raises ValueError if a network has other classes than its images, another number an image, or another order."""
    there, several = len(dataset.class_names), bool(card.get("multi_label"))
    if "num_classes" in card and "run" in card and several != dataset.multi_label:
        kinds = "may have several classes", "has one class"
        theirs, ours = kinds if several else kinds[::-1]
        raise ValueError(f"an image {theirs} by weights {source!r}, and an image of {dataset.name} {ours}")
    if classes != there:
        raise ValueError(
            f"weights {source!r} have {classes:,} classes, and {dataset.name} has {there:,}: evaluate on data of "
            f"{classes:,} classes, or train a classifier for these (--num-classes {there} without --eval-only)"
        )
    names = tuple(map(str, card.get("class_names") or dataset.class_names))
    if names == dataset.class_names:
        return
    place = next(i for i, pair in enumerate(zip(names, dataset.class_names, strict=True)) if len({*pair}) > 1)
    pair = f"class {place} is {names[place]!r} in weights {source!r}, and {dataset.class_names[place]!r} in the data"
    if set(names) == set(dataset.class_names):
        raise ValueError(f"{pair}: the classes have another order")
    complain(f"{pair}: classes are compared by their order")


def _evaluate(evaluated: _Evaluated, batch_size: int | None, quiet: bool) -> Evaluation:
    title, model, variables, dataset, config = evaluated
    seen: dict[str, Any] = dict(interpolation=config.interpolation, crop_rule=config.test_crop_rule)
    evaluation = evaluate(model, variables, dataset, batch_size or config.batch_size, crop=config.test_crop, **seen)
    if not quiet and jax.process_index() == 0:
        for note in (*dataset.notes, *passed_over(dataset)):
            complain(note)
        say(score_line(title, dataset, evaluation))  # the only result: where it cannot be printed, that is an error
    return evaluation
