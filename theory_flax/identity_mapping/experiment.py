"""Stacks of blocks that learn the identity, and the responses of layers in trained networks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resnet_flax import BasicBlock, PreActBasicBlock
from theory_flax.base.options import Options
from theory_flax.experiments.networks import dataset_of, images_of
from theory_flax.experiments.setting import PLAIN, RESIDUAL, learning_rate_in, setting_of, training_on
from theory_flax.identity_mapping.claim import IdentityMapping, StackRuns, identity_mapping, layer_responses

QUICK: dict[str, Any] = dict(rates=(0.03,), steps=120, window=6, features=8, size=6)
WHOLE: dict[str, Any] = dict(rates=(0.1, 0.03, 0.01), steps=1000, window=50, features=16, size=8)


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
    """The result of the experiment.

    Attributes:
        stacks: of post-activation blocks, and of pre-activation ones.
        responses: of plain and residual networks.
        steps: of the networks' training.
    """

    stacks: tuple[IdentityMapping, ...]
    responses: tuple[Responses, ...]
    steps: int


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Measures both kinds of stacks, and networks of both kinds before and after training."""
    dataset, setting, quick = dataset_of(options), setting_of(options), options.quick
    seeds = tuple(range(options.seeds or (3 if quick else 5)))
    stacks = []
    for block in (BasicBlock, PreActBasicBlock):
        stacks.append(identity_mapping(block, counts=(1, 2, 4, 8), seeds=seeds, **(QUICK if quick else WHOLE)))
        for runs in (*stacks[-1].plain, *stacks[-1].residual):
            error = runs.final_error.mean()
            say(f"{block.__name__}, {kind_of(runs)}: error {error:.4f} at learning rate {runs.rate:g}")

    if quick:
        setting = replace(setting, steps=100)
    images, _ = images_of(dataset, 256, test=True)
    images = images[:, :: setting.every, :: setting.every]
    responses = []
    for name in ("plain20", "resnet20") if quick else (*PLAIN, *RESIDUAL):
        model, training = training_on(dataset, name, setting)
        schedule, rows = learning_rate_in(setting, 0.1), []
        for seed in seeds[:3]:
            ends = training(steps=setting.steps, every=setting.steps, learning_rate=schedule, seed=seed)
            rows.append([layer_responses(model, moment.variables, images, train=True) for moment in ends])
        before, after = np.array(rows).swapaxes(0, 1)
        responses.append(Responses(name, before, after))
        say(f"{name}: mean response {before.mean():.3f} before training, {after.mean():.3f} after")
    return Report(tuple(stacks), tuple(responses), setting.steps)


def kind_of(runs: StackRuns) -> str:
    """Describes a stack in words: "2 residual blocks"."""
    return f"{runs.blocks} {'residual' if runs.shortcuts else 'plain'} block{'s' * (runs.blocks > 1)}"
