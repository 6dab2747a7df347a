"""Nested families of functions against others, and what nesting is for: a network trained, deepened, trained on."""

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
    """Five functions that no tower here can compute, on the grid, of root mean square 1."""
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
    """How near the families of one kind come. Distances are root mean squares over the grid; targets have 1.

    Attributes:
        kind: "plain" or "residual".
        depths: (families,) blocks.
        distances: (families, targets, seeds).
        embedded: (families, targets, seeds): of the fit of the family before, taken over.
        bounds: (families, targets): what no member of the family can come nearer than; 0 where none is known.
        regions: (families, directions): how far along each direction of a plane through 0 and two targets the family
            comes within `LEVEL` of what lies there; directions over half a turn, the other half is its mirror image.
    """

    kind: str
    depths: np.ndarray
    distances: np.ndarray
    embedded: np.ndarray
    bounds: np.ndarray
    regions: np.ndarray


@dataclass(frozen=True)
class Use:
    """A network trained, deepened and trained on, against the deep one from scratch, seed by seed.

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
    """What was measured.

    Attributes:
        targets: their names.
        radius: of the ball of parameters.
        angles: (directions,) of the regions, in radians from the first target towards the second.
        families: plain and residual ones.
        use: of deepening, in training.
    """

    targets: tuple[str, ...]
    radius: float
    angles: np.ndarray
    families: tuple[Families, ...]
    use: Use


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Fits every target by every family; then trains, deepens and trains on."""
    dataset = dataset_of(options)
    seeds = options.seeds or 5
    depths = (1, 2, 4, 8) if options.quick else (1, 2, 3, 4, 6, 8)
    angles = np.linspace(0, np.pi, 8 if options.quick else 24, endpoint=False)
    families = []
    for kind in KINDS:
        families.append(_families(kind, depths, seeds, angles, 300 if options.quick else 1500))
        found = families[-1].distances.mean((1, 2))
        say(f"{kind}: mean distance {', '.join(f'{d:.3f}' for d in found)} with {', '.join(map(str, depths))} blocks")
    return Report(tuple(targets()), RADIUS, angles, tuple(families), _use(options, dataset, say))


def _families(kind: str, depths: tuple[int, ...], seeds: int, angles: np.ndarray, steps: int) -> Families:
    """All problems of a family in one program: each target with each seed, and the points of the plane."""
    towers = [KINDS[kind]((depth,), BasicBlock, num_classes=1, stem_kind="cifar", width=WIDTH) for depth in depths]
    goals = np.stack(list(targets().values()))
    problems = np.concatenate([np.repeat(goals, seeds, 0), _plane(angles).reshape(-1, len(POINTS))])
    keys = [*np.tile(np.arange(seeds), len(goals)), *np.arange(len(angles) * len(LENGTHS))]
    fits: Fits = fit_families(towers, POINTS, problems, radius=RADIUS, steps=steps, seeds=keys)
    count, shape = len(goals) * seeds, (len(depths), len(goals), seeds)
    bounds = np.zeros((len(depths), len(goals)))
    for row, tower in zip(bounds, towers, strict=True):
        if isinstance(tower, PlainNet):
            row[:] = [distance_bound(POINTS, goal, gain_bound(tower, RADIUS)) for goal in goals]
    around = fits.distances[:, count:].reshape(len(depths), len(angles), len(LENGTHS))
    return Families(
        kind=kind,
        depths=fits.depths,
        distances=fits.distances[:, :count].reshape(shape),
        embedded=fits.embedded[:, :count].reshape(shape),
        bounds=bounds,
        regions=reach(LENGTHS, around, LEVEL),
    )


def _plane(angles: np.ndarray) -> np.ndarray:
    """(directions, lengths, points): functions of the plane of the first two targets, made orthogonal."""
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
        images = images[:, ::4, ::4]  # digits have 8×8 pixels, each repeated
    names = ("resnet20", "resnet56")
    # New blocks start as the identity; those from scratch do too, which is how deep networks are best started.
    shallow, deep = resnet20(zero_init=True, **small), resnet56(zero_init=True, **small)
    first, after = (100, 150) if options.quick else (500, 1000)
    costs = [count_multiply_adds(model, images.shape[1:]) / 1e6 for model in (shallow, deep)]
    scratch = after + math.ceil(first * costs[0] / costs[1] / EVERY) * EVERY  # the rest of a moment is in its favour
    batch = 64
    per_step = [cost * batch / 1e3 for cost in costs]
    spent = {
        "deepened": np.array([(EVERY * (i + 1)) * per_step[0] for i in range(first // EVERY)]),
        "from scratch": np.array([EVERY * (i + 1) * per_step[1] for i in range(scratch // EVERY)]),
    }
    later = first * per_step[0] + np.array([EVERY * (i + 1) * per_step[1] for i in range(after // EVERY)])
    spent["deepened"] = np.concatenate([spent["deepened"], later])

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
    """The mean loss of each `EVERY` steps, and the variables after the last."""
    losses, variables = [], None
    for moment in moments:
        variables = moment.variables
        if moment.metrics is not None:
            losses.append(float(moment.metrics.loss.mean()))
    return np.array(losses), variables


USES = frozenset({"data", "data_dir", "seeds"})
