"""Stacks of blocks that learn the identity, and the responses of layers in trained networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnet_flax import BasicBlock, PreActBasicBlock
from theory_flax.commands.networks import dataset_of, images_of
from theory_flax.commands.options import Claim, Options
from theory_flax.commands.training import make_training
from theory_flax.degradation import estimate
from theory_flax.figures import BLACK, BLUE, COLOURS, ORANGE, label, new_figure
from theory_flax.identity_mapping import IdentityMapping, StackRuns, identity_mapping, layer_responses
from training_flax import build_model

COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Responses:
    """Layer responses of a network on test images, at the start and after training.

    Attributes:
        name: of the network.
        before, after: (seeds, layers) standard deviations, first layer first.
    """

    name: str
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        stacks: of post-activation blocks, and of pre-activation ones.
        responses: plain and residual networks.
        steps: of the networks' training.
    """

    stacks: tuple[IdentityMapping, ...]
    responses: tuple[Responses, ...]
    steps: int


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Both kinds of stacks, and networks of both kinds before and after training."""
    seeds = range(options.seeds or 5)
    steps = 200 if options.quick else 2000
    stacks = []
    for block in (BasicBlock, PreActBasicBlock):
        found = identity_mapping(
            block,
            counts=COUNTS,
            rates=(0.1,) if options.quick else (0.3, 0.1, 0.03),
            seeds=tuple(seeds),
            steps=steps,
            window=steps // 20,
            features=8 if options.quick else 16,
        )
        stacks.append(found)
        for runs in (*found.plain, *found.residual):
            say(f"{block.__name__}, {_kind(runs)}: error {runs.final_error.mean():.3f} at rate {runs.rate:g}")

    dataset = dataset_of(options)
    every = 4 if options.quick else 1
    images, labels = images_of(dataset, len(dataset.train.labels))
    shown, _ = images_of(dataset, min(256, len(dataset.test.labels)), test=True)
    images, shown = images[:, ::every, ::every], shown[:, ::every, ::every]
    names = ("plain20", "resnet20") if options.quick else ("plain20", "plain56", "resnet20", "resnet56")
    steps = 150 if options.quick else 16_000
    responses = []
    for name in names:
        model: Any = build_model(name, num_classes=len(dataset.class_names), width=8 if options.quick else 16)
        training = make_training(model, images, labels, batch_size=64 if options.quick else 128)
        rows = []
        for seed in seeds[:3]:
            moments = list(
                training(steps=steps, every=steps, rate=lambda step: 0.1 / 10 ** (step >= steps // 2), seed=seed)
            )
            rows.append([layer_responses(model, moment.variables, shown, train=True) for moment in moments])
        before, after = np.array(rows).swapaxes(0, 1)
        responses.append(Responses(name, before, after))
        say(f"{name}: mean response {before.mean():.3f} before training, {after.mean():.3f} after {steps} steps")
    return Report(tuple(stacks), tuple(responses), steps)


def _kind(runs: StackRuns) -> str:
    return f"{runs.blocks} {'residual' if runs.shortcuts else 'plain'} block{'s' * (runs.blocks > 1)}"


def draw(report: Report) -> Figure:
    """Errors of both kinds of stacks through time, sizes of branches, and responses by layer."""
    figure, panels = new_figure("Residual stacks learn the identity, plain ones do not", 2, 2, height=4.0)
    for axes, found in zip(panels[0], report.stacks, strict=True):
        _draw_errors(axes, found)
    branches, responses = panels[1]
    for found, colour, shift in zip(report.stacks, (BLUE, ORANGE), (0.97, 1.03), strict=True):
        for when, marker, fill in (("before", "o", "white"), ("after", "s", colour)):
            values = [_of(runs, when).mean(1) for runs in found.residual]
            middles = [estimate(value) for value in values]
            branches.errorbar(
                np.array([runs.blocks for runs in found.residual]) * shift,
                [middle.mean for middle in middles],
                np.nan_to_num([middle.high - middle.mean for middle in middles]),
                fmt=f"{marker}-",
                mfc=fill,
                ms=5,
                capsize=3,
                color=colour,
                label=f"{found.block}, {when}",
            )
    branches.set_xscale("log", base=2)
    branches.set_xticks([runs.blocks for runs in report.stacks[0].residual])
    branches.xaxis.set_major_formatter("{x:g}")
    branches.set_ylim(bottom=0)
    for network, colour in zip(report.responses, COLOURS, strict=False):
        middles = [estimate(column) for column in network.after.T]
        layers = np.linspace(0, 1, len(middles))
        responses.plot(layers, [middle.mean for middle in middles], "o-", ms=3, color=colour, label=network.name)
        if len(network.after) > 1:
            low, high = ([getattr(middle, end) for middle in middles] for end in ("low", "high"))
            responses.fill_between(layers, low, high, color=colour, alpha=0.15, lw=0)
    responses.axhline(1, color=BLACK, lw=0.8, ls=":")
    label(branches, "branches of residual stacks, before and after", "blocks in the stack", "‖h(x)‖ / ‖x‖")
    label(
        responses,
        f"layer responses after {report.steps} steps (1 before)",
        "depth of the layer, first 0 to last 1",
        "standard deviation",
    )
    return figure


def _of(runs: StackRuns, when: str) -> np.ndarray:
    return runs.branches_before if when == "before" else runs.branches_after


def _draw_errors(axes: Axes, found: IdentityMapping) -> None:
    for stacks, style in ((found.plain, "-"), (found.residual, "--")):
        for runs, colour in zip(stacks, COLOURS, strict=False):
            middles = [estimate(column) for column in runs.error.T]
            steps = (np.arange(len(middles)) + 0.5) * found.window
            axes.plot(steps, [middle.mean for middle in middles], style, color=colour, label=_kind(runs))
            if len(found.seeds) > 1:
                low, high = ([max(getattr(middle, end), 1e-5) for middle in middles] for end in ("low", "high"))
                axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
    axes.set_yscale("log")
    label(axes, f"{found.block}: solid plain, dashed residual", "step", "‖f(x) − x‖² / ‖x − mean‖²", legend=False)
    axes.legend(fontsize=8, ncols=2)


def summary(report: Report) -> list[str]:
    """What was found, in lines."""
    lines = []
    for found in report.stacks:
        for plain, residual in zip(found.plain, found.residual, strict=True):
            ratio = np.exp(estimate(np.log(plain.final_error / residual.final_error)))
            lines.append(
                f"{found.block}, {plain.blocks} blocks: error plain {plain.final_error.mean():.3f}, residual "
                f"{residual.final_error.mean():.4f}; plain over residual {ratio[0]:.1f} [{ratio[1]:.1f}, "
                f"{ratio[2]:.1f}]; branch {residual.branches_before.mean():.2f} before, "
                f"{residual.branches_after.mean():.2f} after"
            )
    for responses in report.responses:
        before, after = (estimate(values.mean(1)) for values in (responses.before, responses.after))
        lines.append(
            f"{responses.name}: mean response {before.mean:.3f} before training, {after.mean:.3f} "
            f"[{after.low:.3f}, {after.high:.3f}] after {report.steps} steps"
        )
    return lines


CLAIM = Claim(measure, draw, summary, frozenset({"data", "data_dir", "seeds"}))
