"""Feature reuse in a trained DenseNet, its gradients beside those of ResNets, and errors beside their cost."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_flax import feature_reuse
from layers_flax import count_multiply_adds, count_parameters
from theory_flax.base.estimates import Estimate, estimate
from theory_flax.base.options import Options
from theory_flax.experiments.networks import data_name, dataset_of, error_on, images_of, init_for, of_run, some
from theory_flax.experiments.training import make_training
from theory_flax.feature_reuse.claim import PUBLISHED, Reuse, Supervision, of_same_depth, reuse_of, supervision
from training_flax import Dataset, build_model, open_dataset
from training_flax.run.summary import read_summary
from weights_flax.io.archs import published_size

ARCH = "densenet_bc_40_12"
BATCH = 64  # images that gradients are computed for


class Size(NamedTuple):
    """The thoroughness of the experiment."""

    seeds: int
    steps: int  # of training
    decay: float  # weight decay
    pixels: int  # height and width of the digits, which have 8
    growth_rates: tuple[int, ...]  # of further DenseNets whose errors are compared
    widths: tuple[int, ...]  # of ResNet-20s whose errors are compared
    batch: int  # images of a training step
    deepest: int  # published networks of more layers are left out


# Huang's weight decay of 1e-4 needs 10⁵ steps to remove the initial weights: after a short training the figure would
# show the initialisation, where all sources weigh the same. Normalised layers learn as well with more weight decay, but
# dense networks collapse from about .08 on.
QUICK = Size(seeds=3, steps=300, decay=0.03, pixels=8, growth_rates=(), widths=(16,), batch=32, deepest=110)
WHOLE = Size(
    seeds=5, steps=3000, decay=0.005, pixels=16, growth_rates=(3, 6, 24), widths=(4, 8, 16, 32), batch=64, deepest=1202
)


@dataclass(frozen=True)
class Point:
    """The cost of a network, and its error.

    Attributes:
        name, kind: the network's name, and "DenseNet" or "ResNet".
        parameters, multiply_adds: of the network on one image.
        error: test error in %, over seeds or as published.
        source: the data set or the paper's table of the error.
    """

    name: str
    kind: str
    parameters: int
    multiply_adds: int
    error: Estimate
    source: str


@dataclass(frozen=True)
class Supervised:
    """The gradients at the layers of a network.

    Attributes:
        name, kind: the network's name, and "DenseNet", "ResNet" or "plain".
        when: "at initialisation" or "trained".
        depth: (layers,) for each layer of all stages, the number of convolutions up to its output.
        stages: for each stage, each seed's gradients in it.
    """

    name: str
    kind: str
    when: str
    depth: np.ndarray
    stages: tuple[tuple[Supervision, ...], ...]


@dataclass(frozen=True)
class Report:
    """The result of the experiment.

    Attributes:
        network: the name of the network, and its training.
        seeds: number of seeds in the averages.
        weights: for each dense block, as `densenet_flax.feature_reuse`, divided by the largest of each target; the mean
            over seeds.
        trained, initial: `Reuse` over seeds, of the trained networks and of the same networks at initialisation.
        supervised: the gradients of networks of the same depth.
        points: costs and errors on this data set.
        published: costs and errors on CIFAR-10, from the papers.
    """

    network: str
    seeds: int
    weights: tuple[np.ndarray, ...]
    trained: dict[str, tuple[Estimate, ...]]
    initial: dict[str, tuple[Estimate, ...]]
    supervised: tuple[Supervised, ...]
    points: tuple[Point, ...]
    published: tuple[Point, ...]


class _Networks(NamedTuple):
    title: str
    name: str
    model: Any
    dataset: Dataset
    before: Sequence[Any]  # variables at initialisation, seed by seed
    after: Sequence[Any]  # trained variables
    points: list[Point]


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Measures weights, gradients and cost of a DenseNet trained from several seeds, or of the network of a run."""
    size = QUICK if options.quick else WHOLE
    found = _train_all(options, size, say) if options.run is None else _of_run(options.run, options)
    begins, ends = (
        [feature_reuse(found.model, of_seed) for of_seed in moment] for moment in (found.before, found.after)
    )
    relative = [[block / np.nanmax(block, axis=0) for block in of_seed] for of_seed in ends]
    return Report(
        network=found.title,
        seeds=len(ends),
        weights=tuple(np.mean(blocks, axis=0) for blocks in zip(*relative, strict=True)),
        trained=_estimates([reuse_of(of_seed) for of_seed in ends]),
        initial=_estimates([reuse_of(of_seed) for of_seed in begins]),
        supervised=_supervised(found, say),
        points=tuple(found.points),
        published=_published(size.deepest),
    )


def _of_run(run: Path, options: Options) -> _Networks:
    name, model, variables = of_run(run, options.which)
    of_same_depth(model)  # refuses networks that are not DenseNets
    dataset = dataset_of(options)
    points, summary = [], read_summary(run)
    if "test_accuracy" in summary:
        error = 100 * (1 - summary["test_accuracy"])
        points.append(_point(name, model, dataset.image_shape, [error], run.name))
    return _Networks(f"{name}, run {run.name}", name, model, dataset, [init_for(dataset, model)], [variables], points)


def _train_all(options: Options, size: Size, say: Callable[[str], None]) -> _Networks:
    """Trains the DenseNet, then the networks whose errors are compared with its error."""
    if len(options.arch) > 1:
        raise ValueError(f"one DenseNet is looked at; given {len(options.arch)}: {', '.join(options.arch)}")
    arch = options.arch[0] if options.arch else ARCH
    of_same_depth(build_model(arch))  # refuses other networks before anything is trained
    pixels = size.pixels if published_size(build_model(arch)) == 32 else 32
    dataset = open_dataset("digits", image_size=pixels) if data_name(options) == "digits" else dataset_of(options)
    networks: dict[str, tuple[str, dict[str, Any]]] = {arch: (arch, {})}
    networks |= {f"{arch}, k = {k}": (arch, dict(growth_rate=k)) for k in size.growth_rates}
    networks |= {f"resnet20, width {width}": ("resnet20", dict(width=width)) for width in size.widths}
    images, test = images_of(dataset, 10_000), some(dataset.test, 2_000)

    def learning_rate(step: int) -> float:
        return 0.1 / 2 * (1 + math.cos(math.pi * (step / size.steps)))

    models, moments, points = [], [], []
    for name, (of, changed) in networks.items():
        model = build_model(of, num_classes=len(dataset.class_names), **changed)
        training = make_training(model, *images, batch_size=size.batch, weight_decay=size.decay)
        runs = (
            training(steps=size.steps, every=size.steps, learning_rate=learning_rate, seed=seed)
            for seed in range(options.seeds or size.seeds)
        )
        before, after = zip(*([moment.variables for moment in run] for run in runs), strict=True)
        errors = [100 * error_on(test, model, variables, dataset) for variables in after]
        say(f"{name}: test error {', '.join(f'{error:.1f}' for error in errors)} % after {size.steps} steps")
        models.append(model)
        moments.append((before, after))
        points.append(_point(name, model, dataset.image_shape, errors, data_name(options)))
    title = f"{arch}, {size.steps} steps on {data_name(options)}, {dataset.image_shape[0]} px"
    return _Networks(title, arch, models[0], dataset, *moments[0], points)


def _point(name: str, model: Any, shape: tuple[int, ...], errors: Sequence[float], source: str) -> Point:
    kind = "DenseNet" if model.join == "concatenate" else "ResNet"
    costs = count_parameters(model, shape), count_multiply_adds(model, shape)
    return Point(name, kind, *costs, estimate(errors), source)


def _supervised(networks: _Networks, say: Callable[[str], None]) -> tuple[Supervised, ...]:
    """Measures the DenseNet before and after training, and its twins of the same depth at initialisation."""
    name, model, dataset = networks.name, networks.model, networks.dataset
    images = images_of(dataset, BATCH)
    residual, plain = of_same_depth(model)
    begins = [init_for(dataset, residual, seed) for seed in range(len(networks.before))]
    depth = 2 + 2 * sum(residual.stage_sizes)
    found = (
        _gradients(name, "DenseNet", "at initialisation", model, networks.before, *images),
        _gradients(name, "DenseNet", "trained", model, networks.after, *images),
        _gradients(f"ResNet-{depth}", "ResNet", "at initialisation", residual, begins, *images),
        _gradients(f"plain-{depth}", "plain", "at initialisation", plain, begins, *images),
    )
    for network in found:
        first = [share.direct_share[0] for share in network.stages[0]]
        say(f"{network.name} {network.when}: {np.mean(first):.0%} of the first layer's gradient is direct")
    return found


def _gradients(
    name: str, kind: str, when: str, model: Any, variables: Sequence[Any], images: Any, labels: Any
) -> Supervised:
    dense, sizes = model.join == "concatenate", model.stage_sizes
    convolutions = 1 if getattr(model, "bottleneck_width", 4) is None else 2
    # With dropout each gradient would belong to another random network.
    model = model.clone(**({"dropout": 0.0} if dense else {}))
    stages = tuple(
        tuple(supervision(model, of_seed, images, labels, stage=stage, train=True) for of_seed in variables)
        for stage in range(len(sizes))
    )
    passed = np.cumsum([0, *(size * convolutions + dense for size in sizes)])
    depth = [1 + first + convolutions * (1 + np.arange(size)) for first, size in zip(passed, sizes, strict=False)]
    return Supervised(name, kind, when, np.concatenate(depth), stages)


def _published(deepest: int) -> tuple[Point, ...]:
    """Returns the networks of the papers' tables with at most `deepest` layers."""
    points = []
    for published in PUBLISHED:
        if int(re.findall(r"\d+", published.arch)[0]) <= deepest:
            model = build_model(published.arch)
            points.append(_point(published.arch, model, (32, 32, 3), [published.error], published.source))
    return tuple(points)


def _estimates(found: Sequence[Reuse]) -> dict[str, tuple[Estimate, ...]]:
    return {
        name: tuple(estimate(of_block) for of_block in zip(*(getattr(one, name) for one in found), strict=True))
        for name in ("input_row", "last_sources", "unevenness")
    }
