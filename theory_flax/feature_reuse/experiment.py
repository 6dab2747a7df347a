"""Feature reuse in a trained DenseNet, whom the loss supervises directly, and accuracy for its cost beside ResNets'."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from densenet_flax import DenseNet, feature_reuse
from layers_flax import count_multiply_adds, count_parameters
from theory_flax.architectures.trace import architecture
from theory_flax.base.estimates import Estimate, estimate
from theory_flax.base.options import Options
from theory_flax.experiments.networks import dataset_of, images_of, of_run
from theory_flax.experiments.training import make_training
from theory_flax.feature_reuse.claim import PUBLISHED, Reuse, Supervision, of_same_depth, reuse_of, supervision
from training_flax import Dataset, build_model, open_dataset
from weights_flax.io.archs import published_size

ARCH = "densenet_bc_40_12"
BATCH = 64  # images whose gradient is looked at


@dataclass(frozen=True)
class Size:
    """How thoroughly it is measured.

    Attributes:
        seeds, steps, decay: of training; the latter of weights.
        pixels: height and width of the digits, which have 8.
        growth_rates, widths: of further DenseNets and of the ResNet-20s whose errors are compared.
        batch: images of a step.
        deepest: layers of the deepest published network that is counted.
    """

    seeds: int
    steps: int
    decay: float
    pixels: int
    growth_rates: tuple[int, ...]
    widths: tuple[int, ...]
    batch: int
    deepest: int


# Huang's decay of 1e-4 takes 10⁵ steps to wear the initial weights off: after a short training the figure would show
# the initialisation, where all sources weigh the same. Normalised layers learn as well under a larger one; from about
# .08 on dense networks collapse.
QUICK = Size(seeds=3, steps=300, decay=0.03, pixels=8, growth_rates=(), widths=(16,), batch=32, deepest=110)
WHOLE = Size(
    seeds=5, steps=3000, decay=0.005, pixels=16, growth_rates=(3, 6, 24), widths=(4, 8, 16, 32), batch=64, deepest=1202
)
RATE = 0.1


@dataclass(frozen=True)
class Point:
    """What a network costs, and how often it errs.

    Attributes:
        name, kind: which; "DenseNet" or "ResNet".
        parameters, multiply_adds: of the network on one image.
        error: of the test part, %, over seeds; or published.
        source: where the error is from.
    """

    name: str
    kind: str
    parameters: int
    multiply_adds: int
    error: Estimate
    source: str


@dataclass(frozen=True)
class Supervised:
    """How the loss reaches the layers of a network.

    Attributes:
        name, kind: which; "DenseNet", "ResNet" or "plain".
        when: "at initialisation" or "trained".
        depth: (layers,) convolutions up to and with each layer's last, of all stages.
        stages: for each stage, each seed's gradients in it.
    """

    name: str
    kind: str
    when: str
    depth: np.ndarray
    stages: tuple[tuple[Supervision, ...], ...]


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        network: which, and how it was trained.
        seeds: that are averaged.
        weights: for each dense block, as `densenet_flax.feature_reuse`, each target's divided by its largest; the mean
            over seeds.
        trained, initial: the figure in numbers, over seeds, of the trained networks and of those they began as.
        supervised: the gradients of networks of the same depth.
        points: this data set's.
        published: CIFAR-10's, from the papers.
    """

    network: str
    seeds: int
    weights: tuple[np.ndarray, ...]
    trained: dict[str, tuple[Estimate, ...]]
    initial: dict[str, tuple[Estimate, ...]]
    supervised: tuple[Supervised, ...]
    points: tuple[Point, ...]
    published: tuple[Point, ...]


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Trains a DenseNet from several seeds, or takes a run's, and looks at its weights, its gradients and its cost."""
    size = QUICK if options.quick else WHOLE
    if options.run is not None:
        return _of_run(options, say)
    if len(options.arch) > 1:
        raise ValueError(f"one DenseNet is looked at; given {len(options.arch)}: {', '.join(options.arch)}")
    arch = options.arch[0] if options.arch else ARCH
    model: Any = build_model(arch)
    of_same_depth(model)  # refuses what is no DenseNet, before anything is trained
    dataset = _dataset(options, arch, size)
    seeds = range(options.seeds or size.seeds)
    classes: dict[str, Any] = dict(num_classes=len(dataset.class_names))
    model = build_model(arch, **classes)
    before, after, errors = _train(model, dataset, size, seeds, say, arch)
    points = [_point(arch, "DenseNet", model, dataset, errors, options.data)]
    others = [
        *((f"{arch}, k = {k}", "DenseNet", build_model(arch, growth_rate=k, **classes)) for k in size.growth_rates),
        *((f"resnet20, width {w}", "ResNet", build_model("resnet20", width=w, **classes)) for w in size.widths),
    ]
    for name, kind, other in others:
        *_, errors = _train(other, dataset, size, seeds, say, name)
        points.append(_point(name, kind, other, dataset, errors, options.data))
    supervised = _supervised(arch, model, dataset, {"at initialisation": before, "trained": after}, say)
    trained = f"{arch}, {size.steps} steps on {options.data}, {dataset.image_shape[0]} px"
    return _report(trained, model, before, after, supervised, points, size.deepest)


def _of_run(options: Options, say: Callable[[str], None]) -> Report:
    assert options.run is not None
    network = of_run(options.run)
    of_same_depth(network.model)
    dataset = dataset_of(options)
    begins = [_init(network.model, dataset)(jax.random.key(0))]
    supervised = _supervised(
        network.name, network.model, dataset, {"at initialisation": begins, "trained": [network.variables]}, say
    )
    points = []
    summary = options.run / "summary.json"
    if summary.exists():
        error = 100 * (1 - json.loads(summary.read_text())["test_accuracy"])
        points.append(_point(network.name, "DenseNet", network.model, dataset, [error], options.run.name))
    return _report(
        f"{network.name}, run {options.run.name}",
        network.model,
        begins,
        [network.variables],
        supervised,
        points,
        (QUICK if options.quick else WHOLE).deepest,
    )


def _dataset(options: Options, arch: str, size: Size) -> Dataset:
    if options.data != "digits":
        return dataset_of(options)
    small = published_size(build_model(arch)) == 32
    return open_dataset("digits", image_size=size.pixels if small else 32)


def _init(model: nn.Module, dataset: Dataset) -> Callable[[jax.Array], Any]:
    image = jnp.zeros((1, *dataset.image_shape), jnp.float32)
    return lambda key: model.init(key, image, train=False)


def _train(
    model: Any, dataset: Dataset, size: Size, seeds: Sequence[int], say: Callable[[str], None], name: str
) -> tuple[list[Any], list[Any], list[float]]:
    """The variables before and after training from each seed, and the errors on the test part, %."""
    images, labels = images_of(dataset, min(len(dataset.train.labels), 10_000))
    test_images, test_labels = images_of(dataset, min(len(dataset.test.labels), 2_000), test=True)
    training = make_training(model, images, labels, batch_size=size.batch, weight_decay=size.decay)
    predict = jax.jit(lambda variables, images: model.apply(variables, images, train=False).argmax(-1))
    before, after, errors = [], [], []
    for seed in seeds:
        first, last = training(steps=size.steps, every=size.steps, rate=lambda at: _cosine(at / size.steps), seed=seed)
        before.append(first.variables)
        after.append(last.variables)
        wrong = [
            np.asarray(predict(last.variables, test_images[i : i + 500]) != test_labels[i : i + 500])
            for i in range(0, len(test_labels), 500)
        ]
        errors.append(100 * float(np.concatenate(wrong).mean()))
    say(f"{name}: test error {', '.join(f'{error:.1f}' for error in errors)} % after {size.steps} steps")
    return before, after, errors


def _cosine(share: float) -> float:
    return RATE / 2 * (1 + math.cos(math.pi * share))


def _point(name: str, kind: str, model: nn.Module, dataset: Dataset, errors: Sequence[float], source: str) -> Point:
    shape = dataset.image_shape
    return Point(
        name, kind, count_parameters(model, shape), count_multiply_adds(model, shape), estimate(errors), source
    )


def _supervised(
    arch: str, model: Any, dataset: Dataset, moments: dict[str, list[Any]], say: Callable[[str], None]
) -> tuple[Supervised, ...]:
    """Of the DenseNet at its moments, and of its twins of the same depth as they are initialised."""
    images, labels = images_of(dataset, BATCH)
    count = len(next(iter(moments.values())))
    found = [_gradients(arch, "DenseNet", when, model, all_, images, labels) for when, all_ in moments.items()]
    residual, plain = of_same_depth(model)
    init = _init(residual, dataset)
    begins = [init(jax.random.key(seed)) for seed in range(count)]
    depth = 2 + 2 * sum(residual.stage_sizes)
    for kind, twin in (("ResNet", residual), ("plain", plain)):
        found.append(_gradients(f"{kind}-{depth}", kind, "at initialisation", twin, begins, images, labels))
    for network in found:
        first = [share.direct_share[0] for share in network.stages[0]]
        say(f"{network.name} {network.when}: {np.mean(first):.0%} of the first layer's gradient is direct")
    return tuple(found)


def _gradients(
    name: str, kind: str, when: str, model: Any, variables: Sequence[Any], images: jax.Array, labels: jax.Array
) -> Supervised:
    sizes = model.stage_sizes
    convolutions = 1 if getattr(model, "bottleneck_width", 4) is None else 2
    # Dropout and dropped paths would draw another network for each gradient.
    model = model.clone(**({"dropout": 0.0} if isinstance(model, DenseNet) else {}))
    stages = tuple(
        tuple(supervision(model, of_seed, images, labels, stage=stage, train=True) for of_seed in variables)
        for stage in range(len(sizes))
    )
    passed = np.cumsum([0, *(size * convolutions + isinstance(model, DenseNet) for size in sizes)])
    depth = [1 + first + convolutions * (1 + np.arange(size)) for first, size in zip(passed, sizes, strict=False)]
    return Supervised(name, kind, when, np.concatenate(depth), stages)


def _report(
    network: str,
    model: Any,
    before: Sequence[Any],
    after: Sequence[Any],
    supervised: tuple[Supervised, ...],
    points: Sequence[Point],
    deepest: int,
) -> Report:
    begins, ends = ([feature_reuse(model, variables) for variables in moment] for moment in (before, after))
    relative = [[block / np.nanmax(block, axis=0) for block in of_seed] for of_seed in ends]
    weights = tuple(np.mean(blocks, axis=0) for blocks in zip(*relative, strict=True))
    published = []
    for known in PUBLISHED:
        if int(re.findall(r"\d+", known.arch)[0]) <= deepest:
            kind = "DenseNet" if known.arch.startswith("densenet") else "ResNet"
            found = architecture(build_model(known.arch), (32, 32, 3))
            error = Estimate(known.error, math.nan, math.nan)
            published.append(Point(known.arch, kind, found.parameters, found.multiply_adds, error, known.source))
    return Report(
        network=network,
        seeds=len(after),
        weights=weights,
        trained=_estimates([reuse_of(of_seed) for of_seed in ends]),
        initial=_estimates([reuse_of(of_seed) for of_seed in begins]),
        supervised=supervised,
        points=tuple(points),
        published=tuple(published),
    )


def _estimates(found: Sequence[Reuse]) -> dict[str, tuple[Estimate, ...]]:
    return {
        name: tuple(estimate(of_block) for of_block in zip(*(getattr(one, name) for one in found), strict=True))
        for name in ("input_row", "last_sources", "unevenness")
    }


USES = frozenset({"arch", "run", "data", "data_dir", "seeds"})
