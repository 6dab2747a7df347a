"""Nested families of functions against others, and what nesting is for: a network trained, deepened, trained on."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common_flax.palette import BLACK, BLUE, COLOURS, GREEN, ORANGE
from layers_flax import count_multiply_adds
from resnet_flax import BasicBlock, PlainNet, ResNet, deepen, resnet20, resnet56
from theory_flax.commands.networks import dataset_of, images_of
from theory_flax.commands.options import Claim, Options
from theory_flax.commands.training import Moment, make_training
from theory_flax.estimates import estimate, geometric
from theory_flax.figures import label, new_figure
from theory_flax.nesting import Fits, distance_bound, fit_families, gain_bound, reach
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


def draw(report: Report) -> Figure:
    """The regions of both kinds, the distance by depth, and the use of deepening."""
    title = f"Nested families of functions only come nearer: towers of {WIDTH} channels, ‖θ‖² ≤ {RADIUS**2:.0f}"
    figure, panels = new_figure(title, 2, 2, width=9.0, height=3.7)
    axes: list[Axes] = list(panels.flat)
    for panel, families in zip(axes[:2], report.families, strict=True):
        _draw_regions(panel, families, report)
    _draw_distances(axes[2], report)
    _draw_use(axes[3], report.use)
    return figure


def _draw_regions(axes: Axes, families: Families, report: Report) -> None:
    around = np.concatenate([report.angles, report.angles + np.pi, report.angles[:1]])
    for depth, row, colour in zip(families.depths, families.regions, COLOURS, strict=False):
        radii = np.concatenate([row, row, row[:1]])
        text = f"{depth} block{'s' if depth > 1 else ''}"
        axes.plot(radii * np.cos(around), radii * np.sin(around), "o-", ms=3, color=colour, label=text)
    axes.plot([1], [0], "*", ms=14, color=BLACK, label=f"target: {report.targets[0]}")
    axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 1.5), aspect="equal")
    kind = "not nested: plain towers" if families.kind == "plain" else "nested: residual towers"
    label(axes, f"{kind}, region within {LEVEL}", "share of the target", "of a second function")
    axes.legend(fontsize=9, loc="lower center", ncols=3)


def _draw_distances(axes: Axes, report: Report) -> None:
    for families, colour, marker in zip(report.families, (ORANGE, BLUE), ("s", "o"), strict=True):
        by_seed = families.distances.mean(1)
        mean, low, high = np.array([estimate(row) for row in by_seed]).T
        axes.errorbar(
            families.depths,
            mean,
            None if np.isnan(low).any() else [mean - low, high - mean],
            fmt=f"{marker}-",
            color=colour,
            capsize=3,
            label=families.kind,
        )
        axes.plot(families.depths, families.distances.mean(2), color=colour, lw=0.7, alpha=0.5)
        if families.bounds.any():
            axes.plot(families.depths, families.bounds.mean(1), ":", color=BLACK, label="plain: no member is nearer")
    axes.set_xscale("log", base=2)
    axes.set_xticks(report.families[0].depths, [str(depth) for depth in report.families[0].depths])
    axes.set_ylim(0, 1.5)
    label(axes, f"mean of {len(report.targets)} targets (thin: each), 95 % over seeds", "blocks", "distance, rms")
    axes.legend(fontsize=9, loc="upper left", ncols=2)


def _draw_use(axes: Axes, use: Use) -> None:
    for (name, spent), colour in zip(use.spent.items(), (GREEN, BLACK), strict=True):
        text = f"{use.names[0]}, deepened to {use.names[1]}" if name == "deepened" else f"{use.names[1]} {name}"
        axes.plot(spent, np.exp(np.log(use.losses[name]).mean(0)), "o-", ms=3, color=colour, label=text)
        axes.plot(spent, use.losses[name].T, color=colour, lw=0.7, alpha=0.5)
    axes.axvline(use.spent["deepened"][use.steps[0] // EVERY - 1], color=GREEN, ls=":", lw=1)
    axes.set_yscale("log")
    axes.set_ylim(top=6 * axes.get_ylim()[1])  # with room for the legend
    label(axes, "digits: the use of it (mean; thin: each seed)", "10⁹ multiply-adds of forward passes", "training loss")


def summary(report: Report) -> list[str]:
    """What was found, in lines."""
    lines = []
    for families in report.families:
        worse = sum(float(np.max(after - before)) > 1e-6 for before, after in pairwise(families.distances))
        rows = families.distances.reshape(len(families.depths), -1)
        rises = (np.diff(rows, axis=0) > 1e-6).any(0)
        lines.append(
            f"{families.kind}: farther away with more blocks in {rises.sum()} of {rises.size} chains of fits, at "
            f"{worse} of {len(rows) - 1} steps in depth; mean distance {rows[0].mean():.3f} with "
            f"{families.depths[0]} block, {rows.min(0).mean():.3f} at best, {rows[-1].mean():.3f} with "
            f"{families.depths[-1]}"
        )
        if families.bounds.any():
            certain = families.bounds[-1][:, None] > families.distances.min(0)
            lines.append(
                f"{families.kind}: of {families.depths[-1]} blocks none can come nearer than "
                f"{families.bounds[-1].min():.3f} to {families.bounds[-1].max():.3f}; fewer blocks did in "
                f"{certain.sum()} of {certain.size} chains"
            )
    use = report.use
    last = {name: losses[:, -1] for name, losses in use.losses.items()}
    gain = geometric(last["from scratch"] / last["deepened"])
    lines.append(
        f"{use.names[0]} for {use.steps[0]} steps, deepened to {use.names[1]} for {use.steps[1]}, against "
        f"{use.steps[2]} from scratch, the same compute: loss {geometric(last['deepened']).mean:.4f} against "
        f"{geometric(last['from scratch']).mean:.4f}, a factor of {gain.mean:.2f} "
        f"(95 %: {gain.low:.2f} to {gain.high:.2f})"
    )
    return lines


CLAIM = Claim(measure, draw, summary, frozenset({"data", "data_dir", "seeds"}))
