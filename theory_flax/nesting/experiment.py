"""Nested families of functions and others, and the use of nesting: a network is trained, deepened and trained on."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from layers_flax import count_multiply_adds
from resnet_flax import BasicBlock, PlainNet, ResNet, deepen, resnet20, resnet56
from theory_flax.base.options import Options
from theory_flax.experiments.networks import dataset_of, images_of
from theory_flax.experiments.training import Moment, make_training
from theory_flax.nesting.claim import Fits, distance_bound, fit_families, gain_bound, reach
from training_flax import Dataset

POINTS = np.linspace(-1, 1, 33)
WIDTH, RADIUS, LEVEL = 4, 30**0.5, 0.15
LENGTHS = np.array([0.25, 0.5, 0.75, 1.0, 1.5])
KINDS: dict[str, type[ResNet]] = {"plain": PlainNet, "residual": ResNet}
EVERY = 25


def targets() -> dict[str, np.ndarray]:
    """Five functions on the grid that no tower here can compute, scaled to a root mean square of 1."""
    x = POINTS
    shapes = {
        "sine": np.sin(4 * x),
        "cosine": np.cos(4 * x),
        "swing": x + np.sin(5 * x * np.abs(x)),
        "bump": np.exp(-8 * x**2),
        "steps": np.sign(np.sin(3 * x + 0.5)),
    }
    return {name: y / np.sqrt(np.square(y).mean()) for name, y in shapes.items()}


@dataclass(frozen=True)
class Families:
    """The distances of the families of one kind: root mean squares over the grid, where each target has 1.

    Attributes:
        kind: "plain" or "residual".
        depths: (families,) blocks.
        distances: (families, targets, seeds).
        embedded: (families, targets, seeds): distances of the family before's fits, embedded into this family.
        bounds: (families, targets): lower bounds of the distances; 0 where no bound is known.
        regions: (families, directions): the length up to which the family comes within `LEVEL` of the functions along a
            direction, in a plane through 0 and two targets. The directions cover half a turn; the rest mirrors it.
    """

    kind: str
    depths: np.ndarray
    distances: np.ndarray
    embedded: np.ndarray
    bounds: np.ndarray
    regions: np.ndarray


@dataclass(frozen=True)
class Use:
    """Losses of a network that is trained, deepened and trained on, and of the deep one from scratch, seed by seed.

    Attributes:
        names: of the shallow and the deep network.
        costs: 10⁶ multiply-adds of one image in each.
        steps: of the shallow network before it is deepened, of the deep one after, and of the deep one from scratch.
        spent, losses: for "deepened" and "from scratch": (moments,) 10⁹ multiply-adds of forward passes so far, and
            (seeds, moments) the mean training loss of the 25 steps before.
    """

    names: tuple[str, str]
    costs: tuple[float, float]
    steps: tuple[int, int, int]
    spent: dict[str, np.ndarray]
    losses: dict[str, np.ndarray]


@dataclass(frozen=True)
class Report:
    """The result of the experiment.

    Attributes:
        targets: names of the targets.
        radius: of the ball of parameters.
        angles: (directions,) of the regions, in radians from the first target towards the second.
        families: plain and residual families.
        use: of deepening, in training.
    """

    targets: tuple[str, ...]
    radius: float
    angles: np.ndarray
    families: tuple[Families, ...]
    use: Use


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Fits every target by every family; then trains a network, deepens it and trains it on."""
    dataset = dataset_of(options)
    seeds = options.seeds or 5
    depths = (1, 2, 4, 8) if options.quick else (1, 2, 3, 4, 6, 8)
    angles = np.linspace(0, np.pi, 8 if options.quick else 24, endpoint=False)
    families = []
    for kind in KINDS:
        families.append(_families(kind, depths, seeds, angles, 300 if options.quick else 1500))
        mean = families[-1].distances.mean((1, 2))
        say(f"{kind}: mean distance {', '.join(f'{d:.3f}' for d in mean)} with {', '.join(map(str, depths))} blocks")
    return Report(tuple(targets()), RADIUS, angles, tuple(families), _use(options, dataset, say))


def _families(kind: str, depths: tuple[int, ...], seeds: int, angles: np.ndarray, steps: int) -> Families:
    """Fits all problems of a family in one program: each target with each seed, and the points of the plane."""
    towers = [KINDS[kind]((depth,), BasicBlock, num_classes=1, stem_type="cifar", width=WIDTH) for depth in depths]
    goals = np.stack(list(targets().values()))
    problems = np.concatenate([np.repeat(goals, seeds, 0), _plane(angles).reshape(-1, len(POINTS))])
    keys = [*np.tile(np.arange(seeds), len(goals)), *np.arange(len(angles) * len(LENGTHS))]
    fits: Fits = fit_families(towers, POINTS, problems, radius=RADIUS, steps=steps, seeds=keys)
    count, shape = len(goals) * seeds, (len(depths), len(goals), seeds)
    bounds = np.zeros((len(depths), len(goals)))
    for row, tower in zip(bounds, towers, strict=True):
        if not tower.has_shortcuts:
            row[:] = [distance_bound(POINTS, goal, gain_bound(tower, RADIUS)) for goal in goals]
    around = fits.distances[:, count:].reshape(len(depths), len(angles), len(LENGTHS))
    distances, embedded = (values[:, :count].reshape(shape) for values in (fits.distances, fits.embedded))
    return Families(kind, fits.depths, distances, embedded, bounds, reach(LENGTHS, around, LEVEL))


def _plane(angles: np.ndarray) -> np.ndarray:
    """Functions in the plane of the first two targets, made orthogonal: (directions, lengths, points)."""
    first, second = list(targets().values())[:2]
    second = second - (second * first).mean() * first
    second = second / np.sqrt(np.square(second).mean())
    directions = np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
    return LENGTHS[:, None] * directions[:, None]


def _use(options: Options, dataset: Dataset, say: Callable[[str], None]) -> Use:
    seeds = options.seeds or (3 if options.quick else 5)
    images, labels = images_of(dataset, len(dataset.train.labels))
    small: dict[str, Any] = dict(num_classes=len(dataset.class_names), **(dict(width=4) if options.quick else {}))
    if options.quick:
        images = images[:, ::4, ::4]  # digits have 8×8 pixels, each of them repeated
    names = ("resnet20", "resnet56")
    # Blocks from scratch start as the identity too, as new blocks do, because deep networks train best that way.
    shallow, deep = resnet20(zero_init=True, **small), resnet56(zero_init=True, **small)
    first, after = (100, 150) if options.quick else (500, 1000)
    costs = [count_multiply_adds(model, images.shape[1:]) / 1e6 for model in (shallow, deep)]
    scratch = after + math.ceil(first * costs[0] / costs[1] / EVERY) * EVERY  # rounded up, in favour of scratch
    batch = 64
    per_step = [cost * batch / 1e3 for cost in costs]

    shallow_part, deep_part, whole = (np.arange(EVERY, steps + 1, EVERY) for steps in (first, after, scratch))
    spent = {
        "deepened": np.append(shallow_part * per_step[0], first * per_step[0] + deep_part * per_step[1]),
        "from scratch": whole * per_step[1],
    }
    losses: dict[str, list[np.ndarray]] = {name: [] for name in spent}
    train_shallow, train_deep = (make_training(model, images, labels, batch_size=batch) for model in (shallow, deep))
    for seed in range(seeds):
        before, variables = _losses(train_shallow(steps=first, every=EVERY, seed=seed))
        deepened = deepen(shallow, variables, deep)
        behind, _ = _losses(train_deep(steps=after, every=EVERY, seed=seed, variables=deepened))
        losses["deepened"].append(np.concatenate([before, behind]))
        losses["from scratch"].append(_losses(train_deep(steps=scratch, every=EVERY, seed=seed))[0])
        say(f"seed {seed}: last loss deepened {behind[-1]:.4f}, from scratch {losses['from scratch'][-1][-1]:.4f}")
    stacked = {name: np.stack(rows) for name, rows in losses.items()}
    return Use(names, (costs[0], costs[1]), (first, after, scratch), spent, stacked)


def _losses(moments: Iterator[Moment]) -> tuple[np.ndarray, Any]:
    """Returns the mean loss of each `EVERY` steps, and the variables after the last step."""
    first, *others = moments
    losses = [float(moment.metrics.loss.mean()) for moment in others if moment.metrics]
    return np.array(losses), (others or [first])[-1].variables
